#include "coordinator/catalog/identity.h"

#include <algorithm>

#include "common/file.h"

namespace stillpoint::coordinator {
namespace {

constexpr std::size_t kDigits = 32;

std::filesystem::path file_in(const std::filesystem::path& state_directory) {
  return state_directory / "coordinator-id";
}

}  // namespace

Result<std::optional<std::string>> read_identity(const std::filesystem::path& state_directory) {
  const auto path = file_in(state_directory);
  std::error_code failed;
  if (!std::filesystem::exists(path, failed)) {
    if (failed) return Error{ErrorKind::permanent, "opening", path.string(), failed.message()};
    return std::optional<std::string>();
  }
  auto text = read_file(path, 256);
  if (!text) return text.error();
  const std::string id = text->substr(0, text->find('\n'));
  const bool is_id = id.size() == kDigits &&
                     std::ranges::all_of(id, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  if (!is_id)
    return Error{ErrorKind::damaged, "opening", path.string(),
                 "it is not an id; the node daemons' host.record and their logs have it: write it there again"};
  return std::optional<std::string>(id);
}

Status keep_identity(const std::filesystem::path& state_directory, const std::string& id) {
  const auto known = read_identity(state_directory);
  if (known && *known == id) return {};
  return publish_file(file_in(state_directory), id + "\n", 0600);
}

}  // namespace stillpoint::coordinator
