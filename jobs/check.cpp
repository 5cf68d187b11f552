// The rules that need more than the manifest's text: its input files, its image, the site's hosts.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "common/fd.h"
#include "common/file.h"
#include "jobs/manifest.h"
#include "jobs/reader.h"
#include "jobs/units.h"

namespace stillpoint::jobs {
namespace {

std::string reason(int errno_value) { return std::generic_category().message(errno_value); }

// Size of the readable regular file at path, or what is wrong with it.
struct FileFigures {
  std::uint64_t bytes = 0;
  std::string fault;
  bool executable = false;
};
FileFigures look_at(const std::filesystem::path& path) {
  // Non-blocking: opening a FIFO must not wait for its writer.
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file) return {0, errno == ENOENT ? "does not exist" : "cannot be read (" + reason(errno) + ")"};
  struct stat figures {};
  if (::fstat(file.get(), &figures) != 0) return {0, "cannot be read (" + reason(errno) + ")"};
  if (S_ISDIR(figures.st_mode)) return {0, "is a directory"};
  if (!S_ISREG(figures.st_mode)) return {0, "is not a regular file"};
  return {static_cast<std::uint64_t>(figures.st_size), "", (figures.st_mode & 0111u) != 0};
}

void check_inputs(const Manifest& manifest, const std::filesystem::path& directory, Problems& problems) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < manifest.mpi.files.size(); ++i) {
    const auto path = directory / manifest.mpi.files[i];
    const auto mark = manifest.marks.files[i];
    const auto file = look_at(path);
    const auto& name = manifest.mpi.files[i];
    if (!file.fault.empty()) {
      problems.add(mark, fmt::format("input file {} {}, expected a readable file at {}", in_quotes(name), file.fault,
                                     path.string()));
      continue;
    }
    if (file.bytes > kMaxInputFile) {
      problems.add(mark, fmt::format("input file {} has {} bytes, expected at most {}", in_quotes(name), file.bytes,
                                     format_size(kMaxInputFile)));
      continue;
    }
    if (!manifest.mpi.command.empty() && manifest.mpi.command.front() == "./" + name && !file.executable) {
      problems.add(mark, fmt::format("input file {} is the program but not executable, expected its x bit to be set "
                                     "(chmod +x)",
                                     in_quotes(name)));
    }
    const bool fitted = sum <= manifest.guests.disk_bytes;
    sum += file.bytes;
    if (fitted && sum > manifest.guests.disk_bytes) {
      problems.add(mark,
                   fmt::format("the input files up to {} have {} bytes, expected no more than spec.guests.disk ({})",
                               in_quotes(manifest.mpi.files[i]), sum, format_size(manifest.guests.disk_bytes)));
    }
  }
}

}  // namespace

std::vector<Problem> check_files(const Manifest& manifest, const std::filesystem::path& directory) {
  Problems problems;
  if (manifest.image != "openmpi") {
    const auto path = directory / manifest.image;
    if (const auto file = look_at(path); !file.fault.empty() || file.bytes == 0) {
      problems.add(
          manifest.marks.image,
          fmt::format("spec.image {} {}, expected a qcow2 or raw disk image at {}, or openmpi",
                      in_quotes(manifest.image), file.fault.empty() ? "is an empty file" : file.fault, path.string()));
    }
  }
  check_inputs(manifest, directory, problems);
  return std::move(problems).sorted();
}

std::vector<Problem> check_hosts(const Manifest& manifest, const std::vector<HostFigures>& hosts) {
  Problems problems;
  if (hosts.empty()) return {};
  const auto known = [&](const std::string& name) {
    return std::find_if(hosts.begin(), hosts.end(), [&](const auto& host) { return host.name == name; });
  };
  const auto& wanted = manifest.placement.hosts;
  const HostFigures* largest = nullptr;
  for (const auto& host : hosts) {
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), host.name) == wanted.end()) continue;
    if (host.memory_bytes == 0) continue;  // never heard of
    if (largest == nullptr || host.memory_bytes > largest->memory_bytes) largest = &host;
  }
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (known(wanted[i]) != hosts.end()) continue;
    std::string names;
    for (const auto& host : hosts) names += (names.empty() ? "" : ", ") + host.name;
    problems.add(manifest.marks.hosts[i],
                 fmt::format("{} is none of the site's hosts, expected some of {}", in_quotes(wanted[i]), names));
  }
  if (largest != nullptr && manifest.guests.memory_bytes > largest->memory_bytes) {
    problems.add(manifest.marks.memory,
                 fmt::format("spec.guests.memory is {}, expected no more than the largest host has: {} MiB on {}",
                             format_size(manifest.guests.memory_bytes), largest->memory_bytes >> 20, largest->name));
  }
  return std::move(problems).sorted();
}

Checked check_manifest(const std::filesystem::path& path, const std::vector<HostFigures>& hosts) {
  Checked checked;
  if (const auto file = look_at(path); !file.fault.empty()) {
    checked.parsed.problems.push_back({{}, fmt::format("the manifest {}, expected a readable file", file.fault)});
    return checked;
  } else if (file.bytes > kMaxManifestBytes) {
    checked.parsed.problems.push_back(
        {{}, fmt::format("{} bytes long, expected a manifest of at most {} KiB", file.bytes, kMaxManifestBytes >> 10)});
    return checked;
  }
  auto text = read_file(path, kMaxManifestBytes);
  if (!text) {
    checked.parsed.problems.push_back(
        {{}, fmt::format("the manifest cannot be read ({}), expected a readable file", text.error().cause)});
    return checked;
  }
  checked.text = std::move(*text);
  checked.parsed = parse_manifest(checked.text);
  auto& problems = checked.parsed.problems;
  const auto more = [&](std::vector<Problem> found) { problems.insert(problems.end(), found.begin(), found.end()); };
  more(check_files(checked.parsed.manifest, path.parent_path()));
  more(check_hosts(checked.parsed.manifest, hosts));
  std::stable_sort(problems.begin(), problems.end(), [](const auto& a, const auto& b) { return a.mark < b.mark; });
  return checked;
}

}  // namespace stillpoint::jobs
