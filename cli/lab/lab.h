// A laboratory: a coordinator and several hosts on one machine, each host with its own network namespace, node daemon,
// libvirt and state directory. Each method is one `stillpoint lab` command, whole or not at all; the laboratory's lock
// keeps them apart. Blocking; one thread.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/lab/journal.h"
#include "cli/lab/layout.h"
#include "common/fd.h"
#include "common/result.h"

namespace stillpoint::lab {

class Lab {
 public:
  // Waits for other commands on the same directory to end.
  static Result<Lab> open(const std::filesystem::path& directory);
  Lab(Lab&&) = default;
  Lab& operator=(Lab&&) = delete;
  ~Lab();

  // Empty strings in options are filled in: programs and guest image from beside this program, images in the
  // laboratory. On failure everything is taken down again, and the error ends with the log of what failed.
  Result<nlohmann::json> up(unsigned hosts, LabOptions options);
  // Everything that belongs to the laboratory goes; then looks whether something is left. Done already: fine.
  Result<std::string> down();

  Result<nlohmann::json> status();
  Status kill_host(const std::string& host);
  Status start_host(const std::string& host);
  Status start_coordinator();
  Status partition(const std::string& host, bool cut_off);

 private:
  Lab(Layout layout, Fd lock) : layout_(std::move(layout)), lock_(std::move(lock)) {}

  Status build(unsigned hosts, const LabOptions& options);
  Status start_coordinator_process();
  std::filesystem::path images_of(const std::string& host) const;
  Status start_daemon(HostRecord& host);
  Status make_host(HostRecord& host);
  Status wait_for_coordinator();
  Status wait_for_hosts(const std::vector<std::string>& hosts);
  Status publish() { return publish_journal(layout_.journal(), journal_); }
  // The journal of a laboratory that is up, and the record of a host that it has.
  Status load();
  Result<HostRecord*> load_host(const std::string& host);

  std::vector<std::string> namespaces() const;
  Status remove_everything();
  std::vector<std::string> leftovers(const std::vector<std::string>& namespaces) const;
  std::string log_tail(const std::string& name) const;

  Layout layout_;
  Fd lock_;  // released when the command ends, however it ends
  Journal journal_;
};

}  // namespace stillpoint::lab
