#include "node-daemon/store/directory_id.h"

#include <algorithm>

#include "common/file.h"
#include "common/log.h"
#include "common/random_id.h"
#include "node-daemon/store/digest.h"
#include "node-daemon/store/new_file.h"
#include "node-daemon/store/seal.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kDigits = 32, kMostBytes = 256;

std::string text_of(const std::string& id) {
  const std::string line = id + "\n";
  Sha256 digest;
  digest.add(line);
  return line + "sha256 " + hex(digest.finish()) + "\n";
}

bool is_id(const std::string& line) {
  return line.size() == kDigits &&
         std::ranges::all_of(line, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

// Stores come after the id.
bool has_stores(const fs::path& directory) {
  std::error_code failed;
  const fs::directory_iterator hosts(directory / "hosts", failed);
  return !failed && hosts != fs::directory_iterator();
}

Result<std::string> make(const fs::path& path) {
  auto id = stillpoint::random_id();
  if (!id) return id.error();
  if (auto made = make_new_file(path, text_of(*id)); !made) return made.error();
  return read_file(path, kMostBytes);  // another host's, if that one came first
}

// Empty: damaged.
Result<std::string> id_in(const fs::path& path, const std::string& text) {
  const std::string id = text.substr(0, text.find('\n'));
  if (!is_id(id)) return std::string();
  if (text == text_of(id)) return id;
  if (text.size() > id.size() + 1) return std::string();
  // Another host that does the same at this moment writes the same. Where there is no room another start does it.
  if (auto written = publish_file(path, text_of(id), 0600); !written)
    log_warn("id of the image directory has no check yet",
             {{"file", path.string()}, {"cause", written.error().message()}});
  return id;
}

}  // namespace

Result<std::string> directory_id(const fs::path& directory, bool is_shared) {
  const fs::path path = directory / "id";
  const auto lost = [&](const char* cause) {
    return Error{ErrorKind::damaged, "open store", path.string(),
                 std::string(cause) +
                     ": put it back from a backup, or write the 32 digits into it that `stillpoint "
                     "checkpoints JOB --json` has behind \"dir:\""};
  };
  const bool had_stores = has_stores(directory);  // looked at first: the id comes before them
  auto text = read_file(path, kMostBytes);
  if (!text && text.error().kind == ErrorKind::not_found) {
    if (had_stores && is_shared) return lost("it is gone, though hosts have stored images here");
    text = make(path);
  }
  if (!text) return text.error();
  auto id = id_in(path, *text);
  if (!id || !id->empty()) return id;
  if (is_shared) return lost("it is not what was written");
  log_warn("id of the image directory made anew", {{"file", path.string()}});
  auto anew = stillpoint::random_id();
  if (!anew) return anew;
  if (auto written = publish_file(path, text_of(*anew), 0600); !written) return written.error();
  return anew;
}

}  // namespace stillpoint::node
