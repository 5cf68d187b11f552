#include "coordinator/core/copies.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "coordinator/core/epochs.h"

namespace stillpoint::coordinator::copies {
namespace {

constexpr std::size_t kCandidates = 4;
constexpr std::string_view kDirectory = "dir:", kObjectStore = "s3";

wire::Durability::Level level_of(const std::string& durability) {
  if (durability == "site") return wire::Durability::SITE;
  return durability == "local" ? wire::Durability::LOCAL : wire::Durability::HOST_LOSS;
}

std::string owner_of(const wire::ImageFile& file) { return file.path().substr(0, file.path().find('/')); }

bool keeps_copies(const Core& core, const HostName& host) {
  const auto record = core.catalog.hosts.find(host);
  const bool cordoned = record != core.catalog.hosts.end() && record->second.cordoned;
  const auto& hello = core.hosts.at(host).hello;
  return core.usable(host) && !cordoned && hello.store_is_own() && !hello.store_endpoint().empty();
}

// Who keeps the copies of what `host` stored for the job's newest checkpoint.
std::set<std::string> keepers(const Core& core, const JobRecord& job, const HostName& host) {
  std::set<std::string> found;
  const auto newest = epochs::newest_committed(core, job);
  if (!newest) return found;
  for (const auto& image : core.catalog.epochs.at(*newest).images)
    if (owner_of(image.memory()) == host.value)
      found.insert(image.memory().copies().begin(), image.memory().copies().end());
  return found;
}

std::vector<HostName> partners(const Core& core, const JobRecord& job, const HostName& host) {
  const auto& own = core.hosts.at(host).hello;
  const auto known = keepers(core, job, host);
  const auto gang = core.gang_hosts(job);
  std::vector<std::pair<std::tuple<bool, bool, bool, std::uint64_t>, HostName>> ranked;
  for (const auto& [name, other] : core.hosts) {
    if (name == host || !keeps_copies(core, name) || other.hello.store_id() == own.store_id()) continue;
    const bool same_domain = !own.domain().empty() && other.hello.domain() == own.domain();
    ranked.push_back(
        {{same_domain, !known.contains(name.value), gang.contains(name), ~other.hello.image_free_bytes()}, name});
  }
  std::ranges::sort(ranked);
  std::vector<HostName> best;
  for (const auto& [rank, name] : ranked)
    if (best.size() < kCandidates) best.push_back(name);
  return best;
}

void add_peer(const Core& core, const HostName& host, wire::StorePeer& peer) {
  peer.set_host(host.value);
  peer.set_endpoint(core.hosts.at(host).hello.store_endpoint());
}

template <class Message>
void add_all(const Core& core, Message& message) {
  for (const auto& [name, host] : core.hosts)
    if (core.usable(name) && !host.hello.store_endpoint().empty()) add_peer(core, name, *message.add_peers());
}

bool can_be_had(const Core& core, const wire::ImageFile& file) {
  const bool in_object_store = std::ranges::find(file.copies(), kObjectStore) != file.copies().end();
  return std::ranges::any_of(core.hosts, [&](const auto& entry) {
    const auto& [name, host] = entry;
    return core.usable(name) && (keeps(core, name, file) || (host.hello.object_store() && in_object_store));
  });
}

std::string words_of(const std::string& copy) {
  if (copy == kObjectStore) return "in the S3 store";
  return copy.starts_with(kDirectory) ? "in the directory that it shares" : copy;
}

std::string level_of(const wire::ImageFile& file) {
  const auto has = [&](auto matches) { return std::ranges::any_of(file.copies(), matches); };
  if (has([](const std::string& copy) { return copy == kObjectStore; })) return "site";
  return file.copies().empty() ? "local" : "host-loss";
}

}  // namespace

bool keeps(const Core& core, const HostName& host, const wire::ImageFile& file) {
  const auto has = [&](const std::string& place) {
    return std::ranges::find(file.copies(), place) != file.copies().end();
  };
  if (host.value == owner_of(file) || has(host.value)) return true;
  const auto& hello = core.hosts.at(host).hello;
  if (hello.store_is_own()) return false;
  // An image that says nothing of copies is from before there were any: then all hosts shared their directory.
  return file.copies().empty() || has(std::string(kDirectory) + hello.store_id());
}

wire::Durability asked_of(const Core& core, const JobRecord& job, const HostName& host) {
  return asked_of(core, job, host, job.spec.durability);
}

wire::Durability asked_of(const Core& core, const JobRecord& job, const HostName& host, const std::string& level) {
  wire::Durability asked;
  asked.set_level(level_of(level));
  if (asked.level() == wire::Durability::HOST_LOSS && core.hosts.at(host).hello.store_is_own())
    for (const auto& partner : partners(core, job, host)) add_peer(core, partner, *asked.add_partners());
  return asked;
}

std::string obstacle(const Core& core, const JobRecord& job) {
  for (const auto& host : core.gang_hosts(job))
    if (std::string why = obstacle(core, job, host, job.spec.durability); !why.empty()) return why;
  return {};
}

std::string obstacle(const Core& core, const JobRecord& job, const HostName& host, const std::string& level) {
  const auto& hello = core.hosts.at(host).hello;
  if (level == "site" && !hello.object_store())
    return fmt::format("its durability is site, and host {} knows of no S3 store: start its daemon with --s3-endpoint",
                       host.value);
  if (level == "host-loss" && hello.store_is_own() && partners(core, job, host).empty())
    return fmt::format(
        "its durability is host-loss, and no other host is up that could keep a copy of what {} stores: bring one "
        "up, or submit the job with durability: local",
        host.value);
  return {};
}

HostName owner(const wire::GuestImage& image) { return {owner_of(image.memory())}; }

bool reaches(const wire::GuestImage& image, const std::string& level) {
  const auto enough = [&](const wire::ImageFile& file) { return level_of(level_of(file)) >= level_of(level); };
  return enough(image.memory()) && enough(image.disk());
}

void add_peers(const Core& core, wire::RestoreGuests& restore) { add_all(core, restore); }
void add_peers(const Core& core, wire::ReadImage& read) { add_all(core, read); }
void add_peers(const Core& core, wire::VerifyImages& verify) { add_all(core, verify); }

std::set<HostName> absent_keepers(const Core& core, const EpochRecord& epoch) {
  std::set<HostName> absent;
  for (const auto& image : epoch.images)
    for (const auto* file : {&image.memory(), &image.disk()}) {
      const bool shared = file->copies().empty() || std::ranges::any_of(file->copies(), [](const std::string& copy) {
                            return copy.starts_with(kDirectory);
                          });
      if (!shared && !core.usable({owner_of(*file)})) absent.insert({owner_of(*file)});
      for (const auto& copy : file->copies())
        if (copy != kObjectStore && !copy.starts_with(kDirectory) && !core.usable({copy})) absent.insert({copy});
    }
  return absent;
}

std::string lost_images(const Core& core, const EpochRecord& epoch) {
  std::string text;
  for (const auto& image : epoch.images)
    for (const auto* file : {&image.memory(), &image.disk()}) {
      if (can_be_had(core, *file)) continue;
      std::string places = owner_of(*file);
      for (const auto& copy : file->copies()) places += " and " + words_of(copy);
      text += fmt::format("{}guest {}'s image is on {} alone, which {} not up", text.empty() ? "" : "; ", image.guest(),
                          places, file->copies().empty() ? "is" : "are");
      break;
    }
  return text;
}

std::optional<Epoch> newest_at_hand(const Core& core, const JobRecord& job, Epoch before) {
  auto older = epochs::newest_committed(core, job, before);
  while (older && !lost_images(core, core.catalog.epochs.at(*older)).empty())
    older = epochs::newest_committed(core, job, *older);
  return older;
}

std::string level(const EpochRecord& epoch) {
  std::string least = "site";
  for (const auto& image : epoch.images)
    for (const auto* file : {&image.memory(), &image.disk()}) {
      const std::string one = level_of(*file);
      if (one == "local" || (one == "host-loss" && least == "site")) least = one;
    }
  return epoch.images.empty() ? "" : least;
}

}  // namespace stillpoint::coordinator::copies
