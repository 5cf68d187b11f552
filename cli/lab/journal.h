// What a laboratory has made or is about to make, in DIR/lab.json. It is published (whole, fsynced) BEFORE each thing
// is made, so `lab down` finds everything whatever moment a crash picks. Under the laboratory's lock only.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/result.h"

namespace stillpoint::lab {

// A process that we started. A pid alone may be somebody else's by now; with the start time it cannot be.
struct ProcessRecord {
  pid_t pid = 0;  // 0: none
  std::uint64_t start_ticks = 0;
  bool operator==(const ProcessRecord&) const = default;
};

enum class LabState { starting, up, stopping };
enum class HostState { present, cut_off, killed };  // cut_off: partitioned; killed: nothing of it exists

struct HostRecord {
  std::string name;
  HostState state = HostState::present;
  ProcessRecord daemon;
  bool operator==(const HostRecord&) const = default;
};

// What `lab up` was told, needed again by start-host and start-coordinator.
struct LabOptions {
  std::string programs;  // directory of stillpointd and stillpoint-node
  std::string guest_image;
  std::string images;     // the shared image directory
  bool own_images = false;  // each host has one of its own instead
  unsigned lease_ms = 0;  // 0: the coordinator's own default
  std::vector<std::string> node_args, coordinator_args;
  bool operator==(const LabOptions&) const = default;
};

struct Journal {
  LabState state = LabState::starting;
  LabOptions options;
  ProcessRecord coordinator;
  std::vector<HostRecord> hosts;
  std::vector<std::string> made_directories;  // parents of DIR that did not exist, outermost first
  bool operator==(const Journal&) const = default;

  HostRecord* find(const std::string& host);
};

std::string to_json(const Journal& journal);
Result<Journal> journal_from_json(const std::string& text, const std::string& object);

// True for a directory that is not there, or has nothing in it but what an interrupted first publish leaves. What
// cannot be listed may hold anything.
bool holds_nothing(const std::filesystem::path& directory);

Status publish_journal(const std::filesystem::path& path, const Journal& journal);
// not_found when there is none.
Result<Journal> read_journal(const std::filesystem::path& path);

}  // namespace stillpoint::lab
