#include "tests/simulation/store.h"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint::simulation {

std::string Store::path(const HostName& owner, const JobId& job, Epoch epoch, std::uint32_t guest) {
  return fmt::format("{}/{}/e{}/guest-{}", owner.value, job.value, epoch.value, guest);
}

StoredImage* Store::find(const std::string& path) {
  const auto found = images_.find(path);
  return found == images_.end() ? nullptr : &found->second;
}

StoredImage& Store::put(StoredImage image) {
  image.places.insert(own_ ? image.owner.value : "");
  auto key = path(image.owner, image.job, image.epoch, image.guest);
  return images_[key] = std::move(image);
}

void Store::remove(const HostName& host, const JobId& job, const std::vector<Epoch>& epochs, bool all_hosts) {
  for (auto& [key, image] : images_) {
    if (image.job != job || std::find(epochs.begin(), epochs.end(), image.epoch) == epochs.end()) continue;
    if (!all_hosts && image.owner != host) continue;
    image.places.erase(own_ ? host.value : "");
  }
  for (auto& [keeper, records] : records_) {
    if (keeper != host && !(all_hosts && !own_)) continue;
    for (const auto epoch : epochs) records.erase({job, epoch});
  }
  std::erase_if(images_,
                [](const auto& entry) { return entry.second.places.empty() && entry.second.lost_by_disk.empty(); });
}

void Store::lose_disk(const HostName& host) {
  for (auto& [key, image] : images_)
    if (image.places.erase(host.value) != 0) image.lost_by_disk.insert(host.value);
  records_.erase(host);
}

void Store::put_record(const HostName& host, const JobId& job, Epoch epoch, const wire::KeepRecord& record) {
  auto& kept = records_[host][{job, epoch}];
  if (record.revision() > kept.revision()) kept = record;
}

const Store::Records& Store::records(const HostName& host) const {
  static const Records none;
  const auto found = records_.find(host);
  return found == records_.end() ? none : found->second;
}

std::map<JobId, std::set<Epoch>> Store::held(const HostName& host) const {
  std::map<JobId, std::set<Epoch>> held;
  for (const auto& [key, image] : images_)
    if (own_ ? image.places.contains(host.value) : image.owner == host && !image.places.empty())
      held[image.job].insert(image.epoch);
  for (const auto& [key, record] : records(host)) held[key.first].insert(key.second);
  return held;
}

}  // namespace stillpoint::simulation
