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

void add_peer(const Core& core, const HostName& host, wire::StorePeer& peer) {
  peer.set_host(host.value);
  peer.set_endpoint(core.hosts.at(host).hello.store_endpoint());
}

template <class Message>
void add_all(const Core& core, Message& message) {
  for (const auto& [name, host] : core.hosts)
    if (core.usable(name) && !host.hello.store_endpoint().empty()) add_peer(core, name, *message.add_peers());
}

// What the hosts that are up reach beside what they stored and keep themselves.
struct Reach {
  std::set<std::string> shared;  // as images name their copies: directories that hosts share, the S3 store
  bool some_shared_directory = false;

  explicit Reach(const Core& core) {
    for (const auto& [name, host] : core.hosts) {
      if (!core.usable(name)) continue;
      if (host.hello.object_store()) shared.emplace(kObjectStore);
      if (host.hello.store_is_own()) continue;
      shared.insert(std::string(kDirectory) + host.hello.store_id());
      some_shared_directory = true;
    }
  }
};

bool can_be_had(const Core& core, const Reach& reach, const wire::ImageFile& file) {
  if (core.usable({owner_of(file)})) return true;
  if (file.copies().empty()) return reach.some_shared_directory;  // see keeps()
  return std::ranges::any_of(
      file.copies(), [&](const std::string& copy) { return reach.shared.contains(copy) || core.usable({copy}); });
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

Partners::Partners(const Core& core, const JobRecord& job) : core_(core) {
  std::set<std::string> in_gang;
  for (const auto& place : job.placement) in_gang.insert(place.host.value);
  for (const auto& [name, host] : core.hosts)
    if (keeps_copies(core, name))
      ranked_.push_back({in_gang.contains(name.value), ~host.hello.image_free_bytes(), name});
  std::ranges::sort(ranked_);
  const auto newest = epochs::newest_committed(core, job);
  if (!newest) return;
  for (const auto& image : core.catalog.epochs.at(*newest).images)
    keepers_[owner_of(image.memory())].insert(image.memory().copies().begin(), image.memory().copies().end());
}

std::vector<HostName> Partners::of(const HostName& host) const {
  const auto& own = core_.hosts.at(host).hello;
  const auto kept = keepers_.find(host.value);
  const auto can_keep = [&](const HostName& name) {
    return name != host && core_.hosts.at(name).hello.store_id() != own.store_id();
  };
  const auto knows = [&](const HostName& name) { return kept != keepers_.end() && kept->second.contains(name.value); };
  const auto in_domain = [&](const HostName& name) {
    return !own.domain().empty() && core_.hosts.at(name).hello.domain() == own.domain();
  };
  std::vector<HostName> best;
  const auto add = [&](bool same_domain, bool known) {
    for (const auto& [in_gang, taken, name] : ranked_) {
      if (best.size() >= kCandidates) return;
      if (can_keep(name) && knows(name) == known && in_domain(name) == same_domain) best.push_back(name);
    }
  };
  const bool some_known = kept != keepers_.end() && !kept->second.empty();
  for (const bool same_domain : {false, true}) {
    if (some_known) add(same_domain, true);
    add(same_domain, false);
  }
  return best;
}

wire::Durability Partners::asked_of(const HostName& host, const std::string& level) const {
  wire::Durability asked;
  asked.set_level(level_of(level));
  if (asked.level() == wire::Durability::HOST_LOSS && core_.hosts.at(host).hello.store_is_own())
    for (const auto& partner : of(host)) add_peer(core_, partner, *asked.add_partners());
  return asked;
}

std::string Partners::obstacle(const HostName& host, const std::string& level) const {
  const auto& hello = core_.hosts.at(host).hello;
  if (level == "site" && !hello.object_store())
    return fmt::format(
        "its durability is site, and host {} knows of no S3 store that it can use: start its daemon with "
        "--s3-endpoint; if it was, its log says what is wrong",
        host.value);
  if (level == "host-loss" && hello.store_is_own() && of(host).empty())
    return fmt::format(
        "its durability is host-loss, and no other host is up that could keep a copy of what {} stores: bring one "
        "up, or submit the job with durability: local",
        host.value);
  return {};
}

std::string obstacle(const Core& core, const JobRecord& job) {
  const Partners partners(core, job);
  for (const auto& host : core.gang_hosts(job))
    if (std::string why = partners.obstacle(host, job.spec.durability); !why.empty()) return why;
  return {};
}

void add_copies(wire::ImageFile& known, const wire::ImageFile& told) {
  for (const auto& copy : told.copies())
    if (std::ranges::find(known.copies(), copy) == known.copies().end()) known.add_copies(copy);
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

bool in_object_store(const wire::GuestImage& image) {
  const auto has = [](const wire::ImageFile& file) {
    return std::ranges::find(file.copies(), kObjectStore) != file.copies().end();
  };
  return has(image.memory()) || has(image.disk());
}

std::optional<HostName> reader_of_object_store(const Core& core, const wire::GuestImage& image) {
  const auto reaches_it = [&](const HostName& name) {
    const auto host = core.hosts.find(name);
    return host != core.hosts.end() && core.usable(name) && host->second.hello.object_store();
  };
  if (const HostName stored = owner(image); reaches_it(stored)) return stored;
  std::optional<HostName> other;
  for (const auto& [name, host] : core.hosts) {
    if (!reaches_it(name)) continue;
    if (keeps(core, name, image.memory())) return name;
    if (!other) other = name;
  }
  return other;
}

std::string lost_images(const Core& core, const EpochRecord& epoch) {
  std::string text;
  const Reach reach(core);
  for (const auto& image : epoch.images)
    for (const auto* file : {&image.memory(), &image.disk()}) {
      if (can_be_had(core, reach, *file)) continue;
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
