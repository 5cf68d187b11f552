// Every file name under the daemon's --state directory, and the records in it.
//
//   STATE/lock                                  held by the running daemon (flock)
//   STATE/host.record                           record::Host
//   STATE/last-word                             the machine's boot id, and ms from there to the coordinator's last word
//   STATE/gangs/JOB-INCARNATION/record          record::Gang
//   STATE/gangs/JOB-INCARNATION/guest-G/        disk layers: base.raw or base.qcow2, layer-0.qcow2, layer-eN.qcow2;
//                                               base.sha256 (base_image.h)
//   STATE/libvirt/                              the embedded libvirt's root
//
// Blocking; from workers, or before anything runs. Any thread.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <vector>

#include "common/fd.h"
#include "common/result.h"
#include "node-daemon/core/types.h"
#include "record.pb.h"

namespace stillpoint::node {

class StateDirectory {
 public:
  // Makes it (0700) and takes its lock: refused while another daemon uses it.
  static Result<StateDirectory> open(const std::filesystem::path& path);

  std::filesystem::path libvirt_root() const { return path_ / "libvirt"; }
  std::filesystem::path gang_directory(const GangId& gang) const;
  std::filesystem::path guest_directory(const DomainId& id) const;

  Result<record::Host> load_host() const;  // an empty record where there is none
  Status store_host(const record::Host& host) const;

  // Outlives the daemon, not the machine: written in place and not flushed, since another boot does not believe it.
  Status store_last_word(std::chrono::milliseconds since_boot) const;
  // Nothing where there is none of this boot.
  Result<std::optional<std::chrono::milliseconds>> load_last_word() const;

  // Records that are whole. A gang directory that has none, or a damaged one, is logged and named in `unreadable`; one
  // that cannot be read for another reason is an error.
  Result<std::vector<record::Gang>> load_gangs(std::vector<std::filesystem::path>& unreadable) const;
  Status store_gang(const record::Gang& gang) const;  // makes the gang's directory
  Status remove_gang(const GangId& gang) const;
  Status remove_guest(const DomainId& id) const;

 private:
  StateDirectory(std::filesystem::path path, Fd lock) : path_(std::move(path)), lock_(std::move(lock)) {}

  std::filesystem::path path_;
  Fd lock_;
};

}  // namespace stillpoint::node
