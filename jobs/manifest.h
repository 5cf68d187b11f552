// What a job manifest says, and how it is read and checked. Parsing reports every error at once, each with its
// position. Values and pure functions, but for the checks that say that they look at the file system. Any thread.
#pragma once

#include <compare>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint::jobs {

// A place in the manifest, both counted from 1; columns in characters.
struct Mark {
  std::size_t line = 1;
  std::size_t column = 1;
  auto operator<=>(const Mark&) const = default;
};

// One error: what is wrong, and what was expected.
struct Problem {
  Mark mark;
  std::string what;
  auto operator<=>(const Problem&) const = default;
};
// "melt.yaml:3:9: unknown key …"
std::string format_problem(std::string_view file, const Problem& problem);

struct Guests {
  std::uint32_t count = 1;
  std::uint32_t vcpus = 1;
  std::uint64_t memory_bytes = 512ull << 20;
  std::uint64_t disk_bytes = 4ull << 30;
};

struct Mpi {
  std::vector<std::uint32_t> ranks_per_guest;  // one entry per guest, each at least 1
  std::vector<std::string> command;
  std::map<std::string, std::string> env;
  std::string workdir = "/job";
  std::vector<std::string> files;    // relative to the manifest; also the names in the workdir
  std::vector<std::string> outputs;  // relative to guest 0's workdir
};

struct CheckpointPolicy {
  std::optional<std::uint32_t> interval_seconds;  // nothing: only on demand, or
  bool interval_auto = false;                     // the coordinator finds the best one
  std::uint32_t keep = 3;
  std::string durability = "host-loss";  // or "local", "site"
  std::string later_durability;          // reached after the commit; empty: none
  std::string while_uploading = "wait";  // a checkpoint asked for while one is under way; or "refuse"
};

struct RestartPolicy {
  bool on_failure = true;
  std::uint32_t max_restarts = 5;
};

struct PlacementPolicy {
  std::vector<std::string> hosts;  // empty: any
  bool spread = true;
};

// Where the values stand that are checked against the world outside the manifest.
struct ManifestMarks {
  Mark image, memory;
  std::vector<Mark> files;  // as Mpi::files
  std::vector<Mark> hosts;  // as PlacementPolicy::hosts
};

struct Manifest {
  std::string name;
  std::string image = "openmpi";  // or the path of a disk image, as written
  Guests guests;
  Mpi mpi;
  CheckpointPolicy checkpoint;
  RestartPolicy restart;
  PlacementPolicy placement;
  ManifestMarks marks;
};

// manifest holds whatever could be understood, so that further checks can add to the problems; it is a job only
// when there are none. Problems are sorted by position.
struct Parsed {
  Manifest manifest;
  std::vector<Problem> problems;
  bool ok() const { return problems.empty(); }
};

inline constexpr std::size_t kMaxManifestBytes = 256u << 10;
// Below this a guest of the built-in image does not boot.
inline constexpr std::uint64_t kMinGuestMemory = 256ull << 20;
inline constexpr std::uint64_t kMinGuestDisk = 64ull << 20;
inline constexpr std::uint64_t kMaxInputFile = 1ull << 30;

// The manifest's own rules. Never throws, whatever text is; at most a bounded number of problems.
Parsed parse_manifest(std::string_view text);

// Input files and image as they are on this machine; directory is the manifest's. Reads the file system.
std::vector<Problem> check_files(const Manifest& manifest, const std::filesystem::path& directory);

// What a coordinator says of one of its hosts.
struct HostFigures {
  std::string name;
  std::uint64_t memory_bytes = 0;
};
// Whether the hosts could ever run the job. No hosts: nothing to check against, no problems.
std::vector<Problem> check_hosts(const Manifest& manifest, const std::vector<HostFigures>& hosts);

// Parses and checks the file at path, with the hosts when they are known. The one call that `validate` and `submit`
// make: problems of all kinds, sorted. Reads the file system.
struct Checked {
  Parsed parsed;
  std::string text;  // the manifest as it was read; empty when it could not be
};
Checked check_manifest(const std::filesystem::path& path, const std::vector<HostFigures>& hosts);

}  // namespace stillpoint::jobs
