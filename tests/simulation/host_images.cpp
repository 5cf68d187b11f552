// What a host does with images: captures, copies, restores, deletions, reading them back.
#include <fmt/format.h>

#include <algorithm>

#include "common/failure.h"
#include "tests/simulation/cluster.h"
#include "tests/simulation/host_node.h"

namespace stillpoint::simulation {
namespace {

constexpr std::int64_t kImagesLine = -2, kVerifyLine = -3, kCopyLine = -4;

}  // namespace

// ---- captures

void HostNode::perform(node::PrepareCapture& e) {
  const CaptureKey key{e.id, e.epoch};
  captures_[key] = {};
  const auto token = line(
      key_of(e.id), std::nullopt,
      [this, e, key]() -> node::Event {
        auto capture = captures_.extract(key);
        return store_image(e, capture ? std::move(capture.mapped()) : CaptureWork{});
      },
      [this, key] { capture_begun(key); });
  captures_[key].token = token;
}

void HostNode::capture_begun(const CaptureKey& key) {
  auto& capture = captures_.at(key);
  capture.begun = true;
  if (capture.cancelled) return end_capture(key, dice_.between(1, 10));
  // Seldom memory is copied beforehand, which takes longer.
  const Millis prepares = dice_.per_mille(50) ? takes(500, 6'000) : takes(5, 150);
  cluster_.agenda.in(prepares, [this, life = life_, key] {
    if (life == life_) capture_ready(key);
  });
}

void HostNode::capture_ready(const CaptureKey& key) {
  const auto found = captures_.find(key);
  if (found == captures_.end() || found->second.cancelled) return;
  if (machine(key.first) == nullptr || disk_full_) return finish_work(key_of(key.first), found->second.token);
  found->second.ready = true;
  const bool instant = found->second.instant;
  give(node::GuestReady{key.first, key.second});
  if (instant) capture_now(key);
}

void HostNode::perform(node::TakeInstant& e) {
  const CaptureKey key{e.id, e.epoch};
  const auto found = captures_.find(key);
  if (found == captures_.end() || std::exchange(found->second.instant, true) || !found->second.ready) return;
  cluster_.agenda.in(dice_.between(15, 120), [this, life = life_, key] {
    if (life == life_) capture_now(key);
  });
}

void HostNode::capture_now(const CaptureKey& key) {
  const auto found = captures_.find(key);
  if (found == captures_.end() || found->second.cancelled) return;
  Machine* const there = machine(key.first);
  if (there == nullptr || !there->running) return end_capture(key, Millis(1));
  cluster_.invariants.captured(*there, key.second);
  ++there->layers;
  found->second.taken.memory = std::make_shared<const Guest>(there->guest);
  found->second.taken.clock = guest_clock(*there);
  end_capture(key, takes(100, 1'200));
  give(node::GuestCaptured{key.first, key.second, {5, 40}});
}

void HostNode::end_capture(const CaptureKey& key, Millis in) {
  cluster_.agenda.in(in, [this, life = life_, key, token = captures_.at(key).token] {
    if (life == life_) finish_work(key_of(key.first), token);
  });
}

// Its stream ends soon; one that has not begun ends as soon as it does.
void HostNode::perform(node::CancelCapture& e) {
  const CaptureKey key{e.id, e.epoch};
  const auto found = captures_.find(key);
  if (found == captures_.end() || std::exchange(found->second.cancelled, true)) return;
  if (found->second.begun) end_capture(key, dice_.between(5, 40));
}

node::GuestStored HostNode::store_image(const node::PrepareCapture& work, CaptureWork capture) {
  const Machine* const there = machine(work.id);
  const std::uint32_t layers = there == nullptr ? 0 : there->layers;
  const auto fails = [&](ErrorKind kind, const std::string& why) {
    return node::GuestStored{work.id, work.epoch, Error{kind, "store", node::name_of(work.id), why}, layers};
  };
  if (capture.cancelled) return fails(ErrorKind::refused, "this epoch was given up");
  if (disk_full_) return fails(ErrorKind::storage_full, "no space left on device");
  if (!capture.taken.memory) return fails(ErrorKind::permanent, "the machine is not there");
  capture.taken.job = work.id.job;
  capture.taken.epoch = work.epoch;
  capture.taken.guest = static_cast<std::uint32_t>(work.id.guest.value);
  capture.taken.owner = name_;
  StoredImage& stored = cluster_.store.put(std::move(capture.taken));
  wire::GuestImage said;
  said.set_guest(stored.guest);
  said.mutable_memory()->set_path(Store::path(name_, stored.job, stored.epoch, stored.guest));
  said.mutable_disk()->set_path(said.memory().path());
  if (auto failed = copy_to_partner(work.durability, stored, said)) return fails(failed->kind, failed->cause);
  return {work.id, work.epoch, said, layers};
}

std::optional<Error> HostNode::copy_to_partner(const wire::Durability& durability, StoredImage& image,
                                               wire::GuestImage& said) {
  if (durability.level() != wire::Durability::HOST_LOSS) return std::nullopt;
  const auto noted = [&](const std::string& place) {
    said.mutable_memory()->add_copies(place);
    said.mutable_disk()->add_copies(place);
  };
  if (!cluster_.store.own()) {
    noted("dir:shared");
    return std::nullopt;
  }
  for (const auto& partner : durability.partners()) {
    const HostNode* const other = cluster_.host({partner.host()});
    if (other == nullptr || !other->is_up() || other->disk_full() || !cluster_.joined(*this, *other)) continue;
    image.places.insert(partner.host());
    noted(partner.host());
    return std::nullopt;
  }
  return Error{ErrorKind::transient, "copy", image.job.value, "no partner takes the copies"};
}

// Copies that follow a commit. They give way to captures.
void HostNode::perform(node::CopyImages& e) {
  line({{}, 0, kCopyLine}, takes(100, 1'500), [this, e]() -> node::Event {
    const auto fails = [&](const std::string& why) {
      return node::ImagesCopied{e.token, Error{ErrorKind::transient, "copy", e.job.value, why}};
    };
    if (!captures_.empty()) return fails("a checkpoint is being stored here");
    std::vector<wire::GuestImage> copied;
    for (const auto& asked : e.images) {
      StoredImage* const image = cluster_.store.find(asked.memory().path());
      if (image == nullptr || !image->places.contains(cluster_.store.own() ? name_.value : ""))
        return fails("it is not kept here");
      if (auto failed = copy_to_partner(e.durability, *image, copied.emplace_back(asked))) return fails(failed->cause);
    }
    return node::ImagesCopied{e.token, std::move(copied)};
  });
}

// No history exports or imports.
void HostNode::perform(node::TransferImage& e) {
  cluster_.invariants.fail("simulator", fmt::format("request {} is for an import or export", e.ask.request()));
}

// ---- restores

// From this host's directory, or a peer's.
Status HostNode::restore(const node::RestoreGuest& work) {
  const auto& path = work.image.memory().path();
  const auto fails = [&](ErrorKind kind, const std::string& why) { return Error{kind, "open", path, why}; };
  const StoredImage* const image = cluster_.store.find(path);
  if (image == nullptr || !image->memory) return fails(ErrorKind::damaged, "it is gone");
  bool damaged = false, there = false;
  for (const auto& place : image->places) {
    const HostNode* const keeper = place.empty() || place == name_.value ? this : cluster_.host({place});
    const bool served = keeper == this || std::any_of(work.peers.begin(), work.peers.end(),
                                                      [&](const auto& p) { return p.host() == place; });
    if (!served || (keeper != this && (!keeper->is_up() || !cluster_.joined(*this, *keeper)))) continue;
    damaged = damaged || image->damaged.contains(place);
    there = there || !image->damaged.contains(place);
  }
  if (!there && damaged) return fails(ErrorKind::damaged, "it does not match its digest");
  if (!there) return fails(ErrorKind::transient, "no host that has it can be reached");
  make_machine(work.plan, *image->memory, Millis(image->clock));
  return {};
}

// ---- what lies in the store

void HostNode::perform(node::DeleteImages& e) {
  line({e.job, 0, kImagesLine}, takes(5, 60), [this, e]() -> node::Event {
    cluster_.store.remove(name_, e.job, e.epochs, e.all_hosts);
    cluster_.invariants.images_changed();
    return node::ImagesDeleted{e.token, {}, 0};
  });
}

void HostNode::perform(node::ListImages&) {
  line({{}, 0, kImagesLine}, takes(5, 40), [this]() -> node::Event {
    wire::HeldImages held;
    for (const auto& [job, epochs] : cluster_.store.held(name_)) {
      auto& one = *held.add_jobs();
      one.set_job(job.value);
      for (const auto epoch : epochs) one.add_epochs(epoch.value);
      for (const auto& [key, record] : cluster_.store.records(name_)) {
        if (key.first != job) continue;
        auto& kept = *one.add_records();
        kept.set_epoch(key.second.value);
        kept.set_revision(record.revision());
      }
    }
    return node::ImagesListed{held};
  });
}

std::vector<std::pair<node::DomainId, Epoch>> HostNode::waiting_captures() const {
  std::vector<std::pair<node::DomainId, Epoch>> waiting;
  for (const auto& [key, capture] : captures_)
    if (!capture.instant && !capture.cancelled) waiting.push_back(key);
  return waiting;
}

// All at once; the pieces are chunk-store-test's.
wire::Records HostNode::records_of(wire::ReadRecords::Where where) const {
  wire::Records all;
  for (const auto& host : cluster_.hosts) {
    if (where == wire::ReadRecords::OWN && host.get() != this) continue;
    for (const auto& [id, kept] : cluster_.store.records(host->name())) all.add_records(kept.record());
  }
  return all;
}

// In one line with the deletions.
void HostNode::perform(node::CarryRecord& e) {
  line({{e.ask.gang().job()}, 0, kImagesLine}, takes(2, 30), [this, e]() -> node::Event {
    node::ImageTransferred done{e.token, {}};
    if (e.ask.has_read_records()) {
      *done.answer.mutable_records() = records_of(e.ask.read_records().where());
      return done;
    }
    const Error full{ErrorKind::storage_full, "keep record", e.ask.gang().job(), "no space left on device"};
    if (disk_full_) *done.answer.mutable_failure() = to_wire(full);
    else {
      cluster_.store.put_record(name_, {e.ask.gang().job()}, Epoch{e.ask.epoch()}, e.ask.keep_record());
      done.answer.mutable_done();
    }
    return done;
  });
}

void HostNode::perform(node::VerifyImages& e) {
  line({{}, 0, kVerifyLine}, takes(20, 200), [this, e]() -> node::Event {
    node::ImagesVerified done{e.token, {}};
    for (const auto& asked : e.images) {
      auto& check = *done.report.add_images();
      check.set_guest(asked.guest());
      StoredImage* const image = cluster_.store.find(asked.memory().path());
      const std::string here = cluster_.store.own() ? name_.value : "";
      if (image == nullptr || !image->places.contains(here)) {
        *check.add_problems() =
            to_wire(Error{ErrorKind::transient, "verify", asked.memory().path(), "it is not kept here"});
        continue;
      }
      check.set_bytes(1);
      if (!image->damaged.contains(here)) continue;
      const bool whole_elsewhere = std::any_of(image->places.begin(), image->places.end(), [&](const auto& place) {
        const HostNode* const other = cluster_.host({place});
        return !image->damaged.contains(place) && other != nullptr && other->is_up() && cluster_.joined(*this, *other);
      });
      if (whole_elsewhere) {
        image->damaged.erase(here);
        check.add_mended("it is whole again");
      } else {
        *check.add_problems() =
            to_wire(Error{ErrorKind::damaged, "verify", asked.memory().path(), "it does not match its digest"});
      }
    }
    return done;
  });
}

}  // namespace stillpoint::simulation
