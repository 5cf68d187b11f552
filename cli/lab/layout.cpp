#include "cli/lab/layout.h"

#include <sys/stat.h>

#include <cerrno>
#include <charconv>
#include <cstdint>

namespace stillpoint::lab {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kLongestDirectory = 80;  // a socket's path has 107 bytes

// FNV-1a. Names need to differ, not to be secret.
std::uint32_t hash(const std::string& text) {
  std::uint64_t value = 14695981039346656037ull;
  for (const unsigned char c : text) value = (value ^ c) * 1099511628211ull;
  return static_cast<std::uint32_t>((value ^ (value >> 24) ^ (value >> 48)) & 0xffffff);
}

}  // namespace

Result<Layout> Layout::at(const fs::path& directory) {
  std::error_code failed;
  fs::path whole = fs::weakly_canonical(fs::absolute(directory, failed), failed);
  if (failed) return Error{ErrorKind::permanent, "find directory", directory.string(), failed.message()};
  if (!whole.has_filename()) whole = whole.parent_path();
  const auto kind = fs::status(whole, failed).type();
  if (kind == fs::file_type::none)
    return Error{ErrorKind::permanent, "find directory", whole.string(), failed.message()};
  // Of "FILE/below" too nothing exists, and FILE is in its way.
  fs::path there = whole;
  while (!fs::exists(there, failed) && there.has_relative_path()) there = there.parent_path();
  if (!fs::is_directory(there, failed))
    return Error{ErrorKind::refused, "use directory", there.string(), "it exists and is not a directory"};
  if (whole == whole.root_path())
    return Error{ErrorKind::refused, "use directory", whole.string(), "a laboratory needs a directory of its own"};
  if (whole.string().size() > kLongestDirectory)
    return Error{ErrorKind::refused, "use directory", whole.string(),
                 "the API's socket in it would have too long a name; " + std::to_string(kLongestDirectory) +
                     " characters are possible"};
  Layout layout;
  layout.directory_ = whole;
  constexpr char digits[] = "0123456789abcdef";
  std::uint32_t value = hash(whole.string());
  for (int i = 0; i < 6; ++i, value >>= 4) layout.id_ += digits[value & 15];
  return layout;
}

fs::path Layout::link() const { return fs::path(kRuntimeDirectory) / id_; }

fs::path Layout::lock() const { return fs::path(kRuntimeDirectory) / ("lab-" + id_ + ".lock"); }

Status make_directory(const fs::path& path, unsigned mode) {
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST) return errno_error("make directory", path.string(), errno);
  return {};
}

std::string host_name(unsigned number) { return "h" + std::to_string(number); }

unsigned host_number(const std::string& name) {
  unsigned number = 0;
  if (name.size() < 2 || name[0] != 'h' || name[1] == '0') return 0;
  const auto [end, failed] = std::from_chars(name.data() + 1, name.data() + name.size(), number);
  if (failed != std::errc() || end != name.data() + name.size() || number > kMaxHosts) return 0;
  return number;
}

std::string host_address(unsigned number) { return "10.98.0." + std::to_string(10 + number); }

std::string switch_port(const std::string& host) { return "port-" + host; }

fs::path namespace_file(const std::string& name) { return fs::path(kNamespaceDirectory) / name; }

}  // namespace stillpoint::lab
