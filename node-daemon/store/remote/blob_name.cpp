#include "node-daemon/store/remote/blob_name.h"

#include "node-daemon/store/chunk_store.h"

namespace stillpoint::node {
namespace {

constexpr std::size_t kLongest = 512;  // S3 takes 1024, of which the site's prefix has some

bool plain_path(std::string_view name) {
  if (name.size() > kLongest) return false;
  for (;;) {
    const std::size_t slash = name.find('/');
    if (!is_host_directory(name.substr(0, slash))) return false;
    if (slash == name.npos) return true;
    name.remove_prefix(slash + 1);
  }
}

}  // namespace

Status check_blob_name(std::string_view step, std::string_view name) {
  if (plain_path(name) && !name.ends_with(kTemporarySuffix)) return {};
  return Error{ErrorKind::refused, std::string(step), std::string(name), "not a name that a stored file may have"};
}

Status check_blob_directory(std::string_view step, std::string_view directory) {
  if (directory.empty() || plain_path(directory)) return {};
  return Error{ErrorKind::refused, std::string(step), std::string(directory), "not a name that a directory may have"};
}

}  // namespace stillpoint::node
