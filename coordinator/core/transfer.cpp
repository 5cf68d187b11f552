#include "coordinator/core/transfer.h"

#include <fmt/format.h>

#include <algorithm>

#include "coordinator/core/checkpoint_records.h"
#include "coordinator/core/copies.h"
#include "coordinator/core/rooms.h"
#include "coordinator/core/store_room.h"

namespace stillpoint::coordinator::transfer {
namespace {

// Numbers of another site are taken over by ours: none may come near the end of what a catalog can count.
constexpr std::uint64_t kMostForeign = std::uint64_t{1} << 40;

Error import_error(ErrorKind kind, const ImportRun& run, std::string cause) {
  return Error{kind, "import", "job " + run.job.spec.name, std::move(cause)};
}

// Ends the import without a trace. Whoever asked last is told why.
void abandon(Core& core, const JobId& id, const Error& why) {
  auto node = core.imports.extract(id);
  if (node.empty()) return;
  const ImportRun& run = node.mapped();
  core.cancel(id, Owner::transfer);
  core.delete_images(Owner::background, id, {run.epoch.epoch});
  core.effects.push_back(DropJobFiles{id, ""});
  core.note_soon(Log::Level::warn, id, {}, run.epoch.epoch, "import given up", why.message());
  if (run.request) core.refuse(*run.request, why);
}

// ---- the beginning

std::optional<std::string> nonsense(const ForeignCheckpoint& checkpoint) {
  const auto& spec = checkpoint.spec;
  const auto numbers_each = [&](const auto& list) {
    std::set<std::uint32_t> guests;
    for (const auto& one : list) guests.insert(one.guest());
    return list.size() == spec.guests && guests.size() == spec.guests && *guests.rbegin() == spec.guests - 1;
  };
  if (spec.guests == 0 || !numbers_each(checkpoint.cut) || !numbers_each(checkpoint.images))
    return fmt::format("it has not one image and one cut of each of {} guests", spec.guests);
  if (checkpoint.epoch.value == 0 || checkpoint.epoch.value >= kMostForeign || checkpoint.incarnation.value == 0 ||
      checkpoint.incarnation.value >= kMostForeign)
    return "its numbers are none that a site counts";
  const auto& known_as = checkpoint.images.front();
  for (const auto& image : checkpoint.images)
    if (image.known_as_job() != known_as.known_as_job() || image.known_as_epoch() != known_as.known_as_epoch() ||
        image.known_as_job().empty() || image.known_as_epoch() == 0 || image.known_as_epoch() >= kMostForeign)
      return "its guests do not know themselves as one job";
  return std::nullopt;
}

bool is_taken(const Core& core, const std::string& name) {
  return std::ranges::any_of(core.catalog.jobs, [&](const auto& entry) { return entry.second.spec.name == name; }) ||
         std::ranges::any_of(core.imports, [&](const auto& entry) { return entry.second.job.spec.name == name; });
}

// Hosts that the other site had and this one has not are no reason to place it nowhere.
void forget_unknown_hosts(const Core& core, JobSpec& spec) {
  if (std::ranges::any_of(spec.hosts, [&](const HostName& host) { return !core.catalog.hosts.contains(host); }))
    spec.hosts.clear();
}

std::optional<Error> refusal(const Core& core, ImportRun& run, const ForeignCheckpoint& checkpoint) {
  if (const auto why = nonsense(checkpoint)) return import_error(ErrorKind::damaged, run, *why);
  if (is_taken(core, run.job.spec.name))
    return import_error(ErrorKind::refused, run,
                        "there is a job of that name already; give this one another with --name");
  if (core.imports.size() >= kMaxImports)
    return import_error(ErrorKind::transient, run,
                        fmt::format("{} imports are under way already; wait for one of them", core.imports.size()));
  auto placed = plan_gang(core, run.job, {});
  if (!placed.has_value()) return placed.error();
  run.job.placement = std::move(placed.value());
  if (const auto why = copies::obstacle(core, run.job); !why.empty()) return import_error(ErrorKind::refused, run, why);
  return store_full(core, run.job);
}

EpochRecord record_of(ForeignCheckpoint& checkpoint) {
  EpochRecord epoch;
  epoch.incarnation = checkpoint.incarnation;
  epoch.state = EpochState::committed;
  epoch.time = checkpoint.time;
  epoch.cut = std::move(checkpoint.cut);
  epoch.images = std::move(checkpoint.images);
  epoch.output_offset = checkpoint.output_bytes;
  return epoch;
}

// ---- pieces

ImportRun* find(Core& core, RequestId request, const JobId& id) {
  const auto found = core.imports.find(id);
  if (found == core.imports.end()) {
    core.refuse(request, Error{ErrorKind::not_found, "import", id.value,
                               "no such import is under way: it was given up, or its coordinator ended; begin again"});
    return nullptr;
  }
  if (found->second.request) {
    core.refuse(request, refused("import", id.value, "a piece of it is under way; one at a time"));
    return nullptr;
  }
  return &found->second;
}

void begin_wait(Core& core, ImportRun& run, RequestId request) {
  run.request = request;
  run.deadline = core.now + kPieceDeadline;
}

void end_wait(Core& core, ImportRun& run, Answer answer) {
  run.deadline = core.now + kPieceDeadline;
  core.reply(*std::exchange(run.request, std::nullopt), std::move(answer));
}

void store_output(Core& core, ImportRun& run, ImportPiece& event) {
  const std::uint64_t end = event.offset + event.data.size();
  if (event.offset != run.output || end > run.epoch.output_offset)
    return core.refuse(event.request, import_error(ErrorKind::refused, run,
                                                   "this piece of the output does not follow the one before"));
  if (event.data.empty()) return core.reply(event.request, Acknowledged{});
  begin_wait(core, run, event.request);
  core.effects.push_back(AppendOutput{event.job, event.offset, std::move(event.data)});
}

void take_kept(Core& core, ImportRun& run, const Request& request, const wire::FromHost& answer) {
  for (const auto& kept : answer.images_kept().images())
    for (auto& image : run.epoch.images)
      if (image.guest() == kept.guest() && core.host_of(run.job, kept.guest()) == request.host) {
        *image.mutable_memory() = kept.memory();
        *image.mutable_disk() = kept.disk();
      }
  run.waiting.erase(request.host);
}

void commit(Core& core, const JobId& id) {
  ImportRun run = std::move(core.imports.extract(id).mapped());
  auto& epoch = run.epoch;
  for (const auto& image : epoch.images) {
    epoch.bytes_raw += image.memory().raw_bytes() + image.disk().raw_bytes();
    epoch.bytes_stored += image.memory().stored_bytes() + image.disk().stored_bytes();
  }
  run.job.placement.clear();
  run.job.state = JobState::stopped;
  run.job.reason = fmt::format("imported from another site; `stillpoint restart {}` brings it to life", id.value);
  core.catalog.jobs[id] = run.job;
  core.catalog.epochs[epoch.epoch] = epoch;
  core.save(run.job);
  core.save(epoch);
  checkpoint_records::changed(core, epoch);
  core.note(Log::Level::info, id, {}, epoch.epoch, "imported", fmt::format("{} bytes stored", epoch.bytes_stored));
  core.effects.push_back(JobChanged{id});
  core.reply(*run.request, Imported{id, epoch});
}

// ---- exports

std::optional<HostName> reader(const Core& core, const wire::ImageFile& file) {
  const HostName own{file.path().substr(0, file.path().find('/'))};
  if (core.usable(own)) return own;
  std::optional<HostName> any;  // it reads from whoever has it
  for (const auto& [name, host] : core.hosts) {
    if (!core.usable(name)) continue;
    if (copies::keeps(core, name, file)) return name;
    if (!any) any = name;
  }
  return any;
}

void on_import_answer(Core& core, const Request& request, const wire::FromHost& answer) {
  const auto found = core.imports.find(request.job);
  if (found == core.imports.end()) return;
  ImportRun& run = found->second;
  const bool fits = request.message.has_keep_images() ? answer.has_images_kept() : answer.has_image_written();
  if (answer.has_failure() || !fits) return abandon(core, request.job, host_error(request, answer));
  if (run.finishing) {
    take_kept(core, run, request, answer);
    if (run.waiting.empty()) commit(core, request.job);
    return;
  }
  const auto& piece = request.message.write_image();
  if (piece.last()) {
    const auto part = piece.disk() ? ImagePart::disk : ImagePart::memory;
    for (auto& image : run.epoch.images)
      if (image.guest() == piece.guest())
        *(piece.disk() ? image.mutable_disk() : image.mutable_memory()) = answer.image_written().file();
    run.whole.insert({piece.guest(), part});
  }
  end_wait(core, run, Acknowledged{});
}

}  // namespace

void on_begin(Core& core, BeginImport event) {
  auto& checkpoint = event.checkpoint;
  ImportRun run;
  run.job.spec = std::move(checkpoint.spec);
  checkpoint.spec = run.job.spec;
  forget_unknown_hosts(core, run.job.spec);
  run.job.manifest = std::move(checkpoint.manifest);
  run.job.incarnation = checkpoint.incarnation;
  if (auto error = refusal(core, run, checkpoint)) return core.refuse(event.request, *error);
  // The guests know which epoch they were released from last and take none that is not newer. So ours go on behind it.
  const std::uint64_t known_as = std::max(checkpoint.epoch.value, checkpoint.images.front().known_as_epoch());
  const Epoch number = std::max(core.catalog.next_epoch, Epoch{known_as});
  run.epoch = record_of(checkpoint);
  run.job.job = run.epoch.job = JobId{fmt::format("j{}", core.catalog.next_job++)};
  run.epoch.epoch = number;
  core.catalog.next_epoch = number.next();
  core.save_counters();
  run.deadline = core.now + kPieceDeadline;
  core.note_soon(Log::Level::info, run.job.job, {}, number, "import begun", run.job.spec.name);
  core.reply(event.request, ImportBegun{run.job.job});
  const JobId id = run.job.job;
  core.imports.emplace(id, std::move(run));
}

void on_piece(Core& core, ImportPiece event) {
  ImportRun* run = find(core, event.request, event.job);
  if (run == nullptr) return;
  if (run->finishing || event.guest >= run->job.spec.guests || run->whole.contains({event.guest, event.part}))
    return core.refuse(event.request, import_error(ErrorKind::refused, *run, "no piece of this image is expected"));
  if (event.part == ImagePart::output) return store_output(core, *run, event);
  begin_wait(core, *run, event.request);
  core.ask(Owner::transfer, core.host_of(run->job, event.guest), event.job, Incarnation{}, run->epoch.epoch,
           [&](wire::ToHost& m) {
             auto& piece = *m.mutable_write_image();
             piece.set_guest(event.guest);
             piece.set_disk(event.part == ImagePart::disk);
             piece.set_offset(event.offset);
             piece.set_data(std::move(event.data));
             piece.set_last(event.last);
           });
}

void on_finish(Core& core, const FinishImport& event) {
  ImportRun* run = find(core, event.request, event.job);
  if (run == nullptr) return;
  if (run->finishing || run->whole.size() != 2 * std::size_t{run->job.spec.guests})
    return core.refuse(event.request, import_error(ErrorKind::refused, *run, "not all of it is there"));
  run->request = event.request;
  run->finishing = true;
  run->deadline = core.now + core.settings.upload_deadline;
  run->waiting = core.gang_hosts(run->job);
  const copies::Partners partners(core, run->job);
  for (const auto& host : run->waiting)
    core.ask(Owner::transfer, host, event.job, Incarnation{}, run->epoch.epoch, [&](wire::ToHost& m) {
      for (const auto& image : run->epoch.images) {
        if (core.host_of(run->job, image.guest()) != host) continue;
        auto& one = *m.mutable_keep_images()->add_images() = image;
        one.clear_domain_xml();
      }
      *m.mutable_keep_images()->mutable_durability() = partners.asked_of(host, run->job.spec.durability);
    });
}

void on_abandon(Core& core, const AbandonImport& event) {
  const auto found = core.imports.find(event.job);
  if (found != core.imports.end())
    abandon(core, event.job, import_error(ErrorKind::refused, found->second, "it was given up"));
  core.reply(event.request, Acknowledged{});
}

void on_export(Core& core, const ExportPiece& event) {
  const auto found = core.catalog.epochs.find(event.epoch);
  const std::string object = fmt::format("checkpoint {} of {}", event.epoch.value, event.job.value);
  if (found == core.catalog.epochs.end() || found->second.job != event.job)
    return core.refuse(event.request, Error{ErrorKind::not_found, "export", object, "no such checkpoint"});
  const auto& epoch = found->second;
  if (epoch.state != EpochState::committed)
    return core.refuse(event.request,
                       refused("export", object, fmt::format("it is {} meanwhile", coordinator::name(epoch.state))));
  if (core.transfers.size() >= kMaxExportPieces)
    return core.refuse(event.request, Error{ErrorKind::transient, "export", object, "too many exports are under way"});
  const auto image =
      std::ranges::find_if(epoch.images, [&](const wire::GuestImage& one) { return one.guest() == event.guest; });
  if (image == epoch.images.end() || event.part == ImagePart::output)
    return core.refuse(event.request, Error{ErrorKind::not_found, "export", object, "it has no such image"});
  const auto& file = event.part == ImagePart::disk ? image->disk() : image->memory();
  const auto host = reader(core, file);
  if (!host) return core.refuse(event.request, Error{ErrorKind::transient, "export", object, "no host is up"});
  const auto number = core.ask(Owner::transfer, *host, event.job, Incarnation{}, event.epoch, [&](wire::ToHost& m) {
    *m.mutable_read_image()->mutable_file() = file;
    m.mutable_read_image()->set_offset(event.offset);
    copies::add_peers(core, *m.mutable_read_image());
  });
  core.transfers[number] = {event.request, core.now + kPieceDeadline};
  auto& exported = core.run(event.job).exported_until;
  std::erase_if(exported, [&](const auto& entry) { return entry.second <= core.now; });
  exported[event.epoch] = core.now + kPieceDeadline;
}

void on_answer(Core& core, const Request& request, const wire::FromHost& answer) {
  if (!request.message.has_read_image()) return on_import_answer(core, request, answer);
  auto node = core.transfers.extract(request.id);
  if (node.empty()) return;
  if (answer.has_failure() || !answer.has_image_piece())
    return core.refuse(node.mapped().client, host_error(request, answer));
  core.run(request.job).exported_until[Epoch{request.message.epoch()}] = core.now + kPieceDeadline;
  core.reply(node.mapped().client, PieceRead{answer.image_piece().data(), answer.image_piece().last()});
}

void on_output(Core& core, const OutputDurable& event) {
  ImportRun& run = core.imports.at(event.job);
  run.output = std::max(run.output, event.offset);
  if (run.request && !run.finishing) end_wait(core, run, Acknowledged{});
}

void on_output_failed(Core& core, const OutputFailed& event) { abandon(core, event.job, event.error); }

void tick(Core& core) {
  std::vector<JobId> late;
  for (const auto& [id, run] : core.imports)
    if (core.now >= run.deadline) late.push_back(id);
  for (const auto& id : late) {
    const ImportRun& run = core.imports.at(id);
    const std::string who = run.finishing ? "the copies of its images were not made in time: " + joined(run.waiting)
                            : run.request ? "a piece of it was not stored in time"
                                          : "its sender fell silent";
    abandon(core, id, import_error(ErrorKind::deadline, run, who));
  }
  for (auto entry = core.transfers.begin(); entry != core.transfers.end();) {
    if (core.now < entry->second.deadline) {
      ++entry;
      continue;
    }
    core.refuse(entry->second.client, Error{ErrorKind::deadline, "export", "image", "a host did not answer in time"});
    core.requests.erase(entry->first);
    entry = core.transfers.erase(entry);
  }
}

}  // namespace stillpoint::coordinator::transfer
