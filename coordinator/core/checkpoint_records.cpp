#include "coordinator/core/checkpoint_records.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "coordinator/core/copies.h"
#include "coordinator/core/spec_json.h"

namespace stillpoint::coordinator::checkpoint_records {
namespace {

bool has_copy(const wire::ImageFile& file, const std::string& place) {
  return std::ranges::find(file.copies(), place) != file.copies().end();
}

// Not of a directory that is shared: there the record is beside the images of who stored them.
bool keeps(const HostName& host, const wire::GuestImage& image) {
  const std::string& path = image.memory().path();
  const bool is_owner =
      path.starts_with(host.value) && path.size() > host.value.size() && path[host.value.size()] == '/';
  return is_owner || has_copy(image.memory(), host.value);
}

// What one host has of a checkpoint.
struct Part {
  std::vector<const wire::GuestImage*> images;
  // Images do not change; that copies are made of them is all that is learned about them.
  std::uint32_t revision = 1;
  bool object_store = false;  // it stored some that are there as well

  void add(const wire::GuestImage& image, bool is_owner) {
    images.push_back(&image);
    revision += static_cast<std::uint32_t>(image.memory().copies_size() + image.disk().copies_size());
    object_store = object_store || (is_owner && has_copy(image.memory(), "s3"));
  }
};

bool is_recorded(const EpochRecord& epoch) { return has_images(epoch.state) && !epoch.control; }

Part part_of(const EpochRecord& epoch, const HostName& host) {
  Part part;
  if (!is_recorded(epoch)) return part;
  for (const auto& image : epoch.images)
    if (keeps(host, image)) part.add(image, copies::owner(image) == host);
  return part;
}

std::map<HostName, Part> parts_of(const EpochRecord& epoch) {
  std::map<HostName, Part> parts;
  if (!is_recorded(epoch)) return parts;
  for (const auto& image : epoch.images) {
    const HostName owner = copies::owner(image);
    parts[owner].add(image, true);
    for (const auto& copy : image.memory().copies())
      if (copy != owner.value) parts[HostName{copy}].add(image, false);
  }
  return parts;
}

wire::CheckpointRecord record_of(const Core& core, const EpochRecord& epoch, const Part& part, std::string spec) {
  const JobRecord& job = core.catalog.jobs.at(epoch.job);
  wire::CheckpointRecord record;
  record.set_coordinator(core.catalog.coordinator);
  record.set_job(epoch.job.value);
  record.set_epoch(epoch.epoch.value);
  record.set_incarnation(epoch.incarnation.value);
  record.set_restored_from(epoch.restored_from.value);
  record.set_time(epoch.time);
  record.set_output_offset(epoch.output_offset);
  record.set_spec(std::move(spec));
  record.set_manifest(job.manifest);
  record.set_spool(job.spool);
  record.set_stall_ms(epoch.stall_ms);
  record.set_capture_ms(epoch.capture_ms);
  record.set_commit_ms(epoch.commit_ms);
  for (const auto* image : part.images) {
    *record.add_images() = *image;
    const auto guest = image->guest();  // cuts are in the order of the guests
    if (guest < epoch.cut.size() && epoch.cut[guest].guest() == guest) *record.add_cut() = epoch.cut[guest];
    else
      for (const auto& cut : epoch.cut)
        if (cut.guest() == guest) *record.add_cut() = cut;
  }
  return record;
}

void ask(Core& core, const HostName& host, const EpochRecord& epoch, const Part& part, std::string spec) {
  core.hosts.at(host).recording =
      core.ask(Owner::record, host, epoch.job, Incarnation{}, epoch.epoch, [&](wire::ToHost& m) {
        auto& body = *m.mutable_keep_record();
        body.set_record(record_of(core, epoch, part, std::move(spec)).SerializeAsString());
        body.set_revision(part.revision);
        body.set_object_store(part.object_store);
      });
}

std::string spec_of(const Core& core, const EpochRecord& epoch) {
  return spec_to_short_json(core.catalog.jobs.at(epoch.job).spec).dump();
}

void go_on(Core& core, const HostName& host) {
  auto& h = core.hosts.at(host);
  while (!h.recording && !h.unrecorded.empty()) {
    const auto known = core.catalog.epochs.find(*h.unrecorded.rbegin());
    h.unrecorded.erase(std::prev(h.unrecorded.end()));
    if (known == core.catalog.epochs.end()) continue;
    if (const Part part = part_of(known->second, host); !part.images.empty())
      ask(core, host, known->second, part, spec_of(core, known->second));
  }
}

void not_kept(Core& core, const Request& request, const Error& why) {
  auto& h = core.hosts.at(request.host);
  const Epoch number{request.message.epoch()};
  const auto known = core.catalog.epochs.find(number);
  if (known == core.catalog.epochs.end() || !has_images(known->second.state)) return;  // deleted meanwhile
  if (h.record_obstacle != why.message())
    core.note_soon(Log::Level::warn, request.job, request.host, number, "record not kept",
                   why.message() + "; until it is, a lost catalog could not be made again from there");
  h.record_obstacle = why.message();
  if (why.kind == ErrorKind::refused || why.kind == ErrorKind::permanent) return;  // perhaps its next daemon can
  h.postponed.insert(number);
  h.record_again = core.now + kLaterRetry;
}

}  // namespace

void changed(Core& core, const EpochRecord& epoch) {
  const std::string spec = spec_of(core, epoch);
  const auto parts = parts_of(epoch);
  core.effects.reserve(core.effects.size() + parts.size());
  for (const auto& [host, part] : parts) {
    const auto found = core.hosts.find(host);
    if (found == core.hosts.end() || found->second.lost) continue;
    const auto& h = found->second;
    if (h.recording) found->second.unrecorded.insert(epoch.epoch);
    else ask(core, host, epoch, part, spec);
  }
}

void on_held(Core& core, const HostName& host, const wire::HeldImages& held) {
  auto& unrecorded = core.hosts.at(host).unrecorded;
  unrecorded.clear();
  core.hosts.at(host).postponed.clear();
  for (const auto& theirs : held.jobs()) {
    std::map<std::uint64_t, std::uint32_t> revisions;
    for (const auto& record : theirs.records()) revisions[record.epoch()] = record.revision();
    for (const auto number : theirs.epochs()) {
      const auto known = core.catalog.epochs.find(Epoch{number});
      if (known == core.catalog.epochs.end() || known->second.job.value != theirs.job()) continue;
      const Part part = part_of(known->second, host);
      if (!part.images.empty() && revisions[number] < part.revision) unrecorded.insert(Epoch{number});
    }
  }
  go_on(core, host);
}

void on_answer(Core& core, const Request& request, const wire::FromHost& answer) {
  auto& h = core.hosts.at(request.host);
  h.recording.reset();
  if (!answer.has_failure() && answer.has_done()) h.record_obstacle.clear();
  else not_kept(core, request, host_error(request, answer));
  go_on(core, request.host);
}

void on_host_lost(Core& core, const HostName& host) {
  auto& h = core.hosts.at(host);
  h.unrecorded.clear();  // what it lacks is seen when it is back
  h.postponed.clear();
  if (h.recording) core.requests.erase(*h.recording);
  h.recording.reset();
}

void tick(Core& core) {
  for (auto& [name, host] : core.hosts) {
    if (core.now >= host.record_again) host.unrecorded.merge(host.postponed);
    if (!host.unrecorded.empty()) go_on(core, name);
  }
}

void deleted(Core& core, const JobId& job, Epoch epoch) {
  std::erase_if(core.requests, [&](const auto& entry) {
    const auto& [id, request] = entry;
    if (request.owner != Owner::record || request.job != job || request.message.epoch() != epoch.value) return false;
    core.hosts.at(request.host).recording.reset();
    return true;
  });
}

Result<Found> parse(const std::string& record, const std::string& coordinator) {
  const auto damaged = [](const std::string& cause) { return Error{ErrorKind::damaged, "read record", "", cause}; };
  wire::CheckpointRecord read;
  if (!read.ParseFromString(record)) return damaged("it is no record of a checkpoint");
  const std::string what = "checkpoint " + std::to_string(read.epoch()) + " of " + read.job() + ": ";
  if (read.coordinator() != coordinator) return damaged(what + "it is of another coordinator, " + read.coordinator());
  const auto document = nlohmann::json::parse(read.spec(), nullptr, false);
  if (document.is_discarded()) return damaged(what + "its job is described in no JSON");
  auto spec = spec_from_json(document);
  if (!spec) return damaged(what + spec.error().cause);
  if (const auto problems = spec_problems(*spec); !problems.empty()) return damaged(what + problems.front());
  Found found;
  found.job.job = found.epoch.job = JobId{read.job()};
  found.job.spec = std::move(*spec);
  found.job.manifest = read.manifest();
  found.job.spool = read.spool();
  auto& epoch = found.epoch;
  epoch.epoch = Epoch{read.epoch()};
  epoch.incarnation = Incarnation{read.incarnation()};
  epoch.restored_from = Epoch{read.restored_from()};
  epoch.state = EpochState::committed;
  epoch.time = read.time();
  epoch.output_offset = read.output_offset();
  epoch.stall_ms = read.stall_ms();
  epoch.capture_ms = read.capture_ms();
  epoch.commit_ms = read.commit_ms();
  epoch.images = {read.images().begin(), read.images().end()};
  epoch.cut = {read.cut().begin(), read.cut().end()};
  return found;
}

}  // namespace stillpoint::coordinator::checkpoint_records
