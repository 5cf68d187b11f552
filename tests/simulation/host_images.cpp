// What a host does with images: captures, copies, restores, deletions, reading them back.
#include <fmt/format.h>

#include <algorithm>

#include "common/failure.h"
#include "tests/simulation/cluster.h"
#include "tests/simulation/host_node.h"

namespace stillpoint::simulation {
namespace {

constexpr std::int64_t kImagesLine = -2, kVerifyLine = -3;

}  // namespace

void HostNode::perform(node::CaptureGuest& e) {
  auto taken = std::make_shared<StoredImage>();
  const Key key{e.id.job, e.id.incarnation.value, static_cast<std::int64_t>(e.id.guest.value)};
  const Millis until_captured = dice_.between(15, 120);
  line(
      key, until_captured + takes(100, 1'200),
      [this, e, taken]() -> node::Event {
        const bool cancelled = cancelled_.erase({e.id, e.epoch}) != 0;
        return store_image(e, *taken, cancelled);
      },
      [this, e, taken, until_captured] {
        cluster_.agenda.in(until_captured, [this, life = life_, e, taken] {
          if (life == life_) capture_now(e.id, e.epoch, taken);
        });
      });
}

void HostNode::capture_now(const node::DomainId& id, Epoch epoch, std::shared_ptr<StoredImage> into) {
  const Machine* const there = machine(id);
  if (there == nullptr || !there->running || cancelled_.contains({id, epoch})) return;
  cluster_.invariants.captured(*there, epoch);
  into->memory = std::make_shared<const Guest>(there->guest);
  into->clock = guest_clock(*there);
  give(node::GuestCaptured{id, epoch, {5, 40}});
}

node::GuestStored HostNode::store_image(const node::CaptureGuest& work, StoredImage image, bool cancelled) {
  const auto fails = [&](ErrorKind kind, const std::string& why) {
    return node::GuestStored{work.id, work.epoch, Error{kind, "store", node::name_of(work.id), why}, 3};
  };
  if (cancelled) return fails(ErrorKind::refused, "this epoch was given up");
  if (!image.memory) return fails(ErrorKind::permanent, "the machine is not there");
  if (disk_full_) return fails(ErrorKind::storage_full, "no space left on device");
  image.job = work.id.job;
  image.epoch = work.epoch;
  image.guest = static_cast<std::uint32_t>(work.id.guest.value);
  image.owner = name_;
  StoredImage& stored = cluster_.store.put(std::move(image));
  wire::GuestImage said;
  said.set_guest(stored.guest);
  said.mutable_memory()->set_path(Store::path(name_, stored.job, stored.epoch, stored.guest));
  said.mutable_disk()->set_path(said.memory().path());
  if (auto failed = copy_to_partner(work, stored, said)) return fails(failed->kind, failed->cause);
  return {work.id, work.epoch, said, 3};
}

std::optional<Error> HostNode::copy_to_partner(const node::CaptureGuest& work, StoredImage& image,
                                               wire::GuestImage& said) {
  if (work.durability.level() != wire::Durability::HOST_LOSS) return std::nullopt;
  const auto noted = [&](const std::string& place) {
    said.mutable_memory()->add_copies(place);
    said.mutable_disk()->add_copies(place);
  };
  if (!cluster_.store.own()) {
    noted("dir:shared");
    return std::nullopt;
  }
  for (const auto& partner : work.durability.partners()) {
    const HostNode* const other = cluster_.host({partner.host()});
    if (other == nullptr || !other->is_up() || other->disk_full() || !cluster_.joined(*this, *other)) continue;
    image.places.insert(partner.host());
    noted(partner.host());
    return std::nullopt;
  }
  return Error{ErrorKind::transient, "copy", image.job.value, "no partner takes the copies"};
}

void HostNode::perform(node::CancelCapture& e) {
  const Key key{e.id.job, e.id.incarnation.value, static_cast<std::int64_t>(e.id.guest.value)};
  const auto found = lines_.find(key);
  if (found == lines_.end()) return;
  cancelled_.insert({e.id, e.epoch});
  cluster_.agenda.in(dice_.between(5, 40),
                     [this, life = life_, key, id = e.id, epoch = e.epoch, token = found->second.front().token] {
                       if (life == life_ && cancelled_.contains({id, epoch})) finish_work(key, token);
                     });
}

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
    }
    return node::ImagesListed{held};
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
