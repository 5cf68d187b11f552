// Where checkpoint images lie and what stands when hosts are lost: partners for the copies of a checkpoint, and which
// of the catalog's images can still be had. Reads the core, changes nothing.
#pragma once

#include <string>
#include <tuple>

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::copies {

// Who may keep the copies of what the job's hosts store. To be made anew in each step: it refers to the core as it is.
class Partners {
 public:
  Partners(const Core& core, const JobRecord& job);

  // What a host is asked for to reach the level ("local", "host-loss", "site"): with it, who may keep its copies, the
  // best first. Best is another failure domain, then who has the job's last copies already (they grow only by what is
  // new), then who runs none of its guests, then who has most room.
  wire::Durability asked_of(const HostName& host, const std::string& level) const;
  // Why what the host stored cannot reach the level now, and what to do; empty: it can.
  std::string obstacle(const HostName& host, const std::string& level) const;

 private:
  std::vector<HostName> of(const HostName& host) const;

  const Core& core_;
  std::vector<std::tuple<bool, std::uint64_t, HostName>> ranked_;  // runs guests of the job, less than all room, name
  std::map<std::string, std::set<std::string>> keepers_;           // of the newest checkpoint, by who stored it
};

// Why the job's level cannot be reached now, and what to do; empty: it can.
std::string obstacle(const Core& core, const JobRecord& job);

// What is told of an image's copies is added to what is known of them.
void add_copies(wire::ImageFile& known, const wire::ImageFile& told);

// Hosts that serve images, to be asked for those that are not at hand.
void add_peers(const Core& core, wire::RestoreGuests& restore);
void add_peers(const Core& core, wire::ReadImage& read);
void add_peers(const Core& core, wire::VerifyImages& verify);

// Whether the image is in the host's directory: it stored it, keeps a copy of it, or shares the directory with who did.
bool keeps(const Core& core, const HostName& host, const wire::ImageFile& file);

// The hosts that keep images of the checkpoint and are not up; empty: there are none. Not those that share a directory
// with one that is up.
std::set<HostName> absent_keepers(const Core& core, const EpochRecord& epoch);

// Whether the image, or its disk, has a copy in the S3 store; who is to read that: the host that stored it, and where
// that one is not up another one that reaches the store, if there is any.
bool in_object_store(const wire::GuestImage& image);
std::optional<HostName> reader_of_object_store(const Core& core, const wire::GuestImage& image);

// Which images of the checkpoint nobody who is up has; empty: all can be had.
std::string lost_images(const Core& core, const EpochRecord& epoch);

// The newest committed checkpoint of the job's present history, before that one, whose images can all be had.
std::optional<Epoch> newest_at_hand(const Core& core, const JobRecord& job, Epoch before);

// Who stored the image, and whether it and its disk are where the level wants them.
HostName owner(const wire::GuestImage& image);
bool reaches(const wire::GuestImage& image, const std::string& level);

// The level that a committed checkpoint has reached: "local", "host-loss", "site"; the least of its images'.
std::string level(const EpochRecord& epoch);

}  // namespace stillpoint::coordinator::copies
