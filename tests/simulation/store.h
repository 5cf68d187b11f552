// The images of a site, as its hosts' chunk stores keep them: in a directory that all share, or each host's own with
// copies at partners. What an image is made of is the guest itself. One owner: the cluster.
#pragma once

#include <map>
#include <memory>
#include <set>

#include "common/ids.h"
#include "host.pb.h"
#include "tests/simulation/guest.h"

namespace stillpoint::simulation {

// Where copies of an image lie; "" is the shared directory.
struct StoredImage {
  JobId job;
  Epoch epoch;
  std::uint32_t guest = 0;
  HostName owner;
  std::shared_ptr<const Guest> memory;
  std::int64_t clock = 0;              // of the guest, at the capture
  std::set<std::string> places;        // it lies there
  std::set<std::string> damaged;       // of these, where it is not whole
  std::set<std::string> lost_by_disk;  // it lay there until the disk was lost
};

class Store {
 public:
  explicit Store(bool own) : own_(own) {}

  bool own() const { return own_; }
  static std::string path(const HostName& owner, const JobId& job, Epoch epoch, std::uint32_t guest);
  StoredImage* find(const std::string& path);
  StoredImage& put(StoredImage image);
  void remove(const HostName& host, const JobId& job, const std::vector<Epoch>& epochs, bool all_hosts);
  void lose_disk(const HostName& host);
  // Whose images this host's own directory holds.
  std::map<JobId, std::set<Epoch>> held(const HostName& host) const;
  // Records of checkpoints, by the host that keeps them: durable when put. The one with the highest revision stays.
  void put_record(const HostName& host, const JobId& job, Epoch epoch, const wire::KeepRecord& record);
  using Records = std::map<std::pair<JobId, Epoch>, wire::KeepRecord>;
  const Records& records(const HostName& host) const;
  const std::map<std::string, StoredImage>& all() const { return images_; }
  std::map<std::string, StoredImage>& all() { return images_; }

 private:
  bool own_;
  std::map<HostName, Records> records_;
  std::map<std::string, StoredImage> images_;  // by path; also those that lie nowhere any more
};

}  // namespace stillpoint::simulation
