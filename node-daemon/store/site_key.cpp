#include "node-daemon/store/site_key.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <sstream>

#include "common/file.h"
#include "node-daemon/store/bytes.h"
#include "node-daemon/store/new_file.h"

namespace stillpoint::node {
namespace {

constexpr std::string_view kFirstLine = "stillpoint-store-keys 1";
constexpr std::string_view kFirstLineOfIds = "stillpoint-key-ids 1";
constexpr std::string_view kFindKey = "find site key";

Error bad_file(const std::string& object, std::string cause) {
  return {ErrorKind::permanent, "read site keys", object, std::move(cause)};
}

bool parse_hex(std::string_view text, unsigned char* out, std::size_t bytes) {
  if (text.size() != 2 * bytes) return false;
  for (std::size_t i = 0; i < bytes; ++i) {
    const char* const end = text.data() + 2 * i + 2;
    const auto read = std::from_chars(end - 2, end, out[i], 16);
    if (read.ec != std::errc() || read.ptr != end) return false;
  }
  return true;
}

Result<std::string> new_line() {
  auto id = random_id();
  if (!id) return id.error();
  auto key = random_key();
  if (!key) return key.error();
  return hex(as_text(*id).substr(0, 8)) + " " + hex(as_text(*key)) + "\n";
}

// Nothing: no key was used here yet.
Result<std::optional<std::set<std::string>>> read_ids(const std::filesystem::path& path) {
  auto text = read_file(path, 1u << 20);
  if (!text && text.error().kind == ErrorKind::not_found) return std::optional<std::set<std::string>>();
  if (!text) return text.error();
  auto ids = parse_key_ids(*text);
  if (!ids) return Error{ids.error().kind, ids.error().step, path.string(), ids.error().cause};
  return std::optional(std::move(*ids));
}

std::string text_of(const std::set<std::string>& ids) {
  std::string text(kFirstLineOfIds);
  text += '\n';
  for (const std::string& id : ids) text += id + '\n';
  return text;
}

}  // namespace

const SiteKey* SiteKeys::find(std::uint64_t id) const {
  const auto found = std::ranges::find(keys_, id, &SiteKey::id);
  return found == keys_.end() ? nullptr : &*found;
}

std::string key_id_text(std::uint64_t id) {
  std::string bytes;
  put_be(bytes, id);
  return hex(bytes);
}

Error missing_key(std::uint64_t id, const SiteKeys& keys) {
  return {ErrorKind::transient, std::string(kFindKey), "",
          "its key, " + key_id_text(id) + ", is not in " + keys.file().string() +
              " of this host: copy that file here from a host whose file has a line that begins so, and start the node "
              "daemon again"};
}

bool is_missing_key(const Error& error) { return error.step == kFindKey; }

ErrorKind kind_for_sender(const Error& error) {
  return is_missing_key(error) ? ErrorKind::refused : ErrorKind::damaged;
}

Result<SiteKeys> parse_site_keys(std::string_view text) {
  std::istringstream in{std::string(text)};
  std::string line;
  if (!std::getline(in, line) || line != kFirstLine) return bad_file("", "its first line is not the one of version 1");
  std::vector<SiteKey> keys;
  while (std::getline(in, line)) {
    if (line.empty()) continue;
    SiteKey key;
    unsigned char id[8];
    const bool good = line.size() > 17 && line[16] == ' ' && parse_hex(line.substr(0, 16), id, sizeof id) &&
                      parse_hex(line.substr(17), key.key.data(), key.key.size());
    if (!good) return bad_file("", "line " + std::to_string(keys.size() + 2) + " is not an id and a key");
    key.id = get_be<std::uint64_t>(reinterpret_cast<const char*>(id));
    if (std::ranges::any_of(keys, [&](const SiteKey& other) { return other.id == key.id; }))
      return bad_file("", "two keys have one id");
    keys.push_back(key);
  }
  if (keys.empty()) return bad_file("", "no key in it");
  return SiteKeys(std::move(keys));
}

Result<std::set<std::string>> parse_key_ids(std::string_view text) {
  const auto bad = [](std::string cause) { return Error{ErrorKind::damaged, "read key ids", "", std::move(cause)}; };
  std::istringstream in{std::string(text)};
  std::string line;
  if (!std::getline(in, line) || line != kFirstLineOfIds) return bad("its first line is not the one of version 1");
  std::set<std::string> ids;
  while (std::getline(in, line)) {
    unsigned char id[8];
    if (line.empty()) continue;
    if (!parse_hex(line, id, sizeof id)) return bad("line " + std::to_string(ids.size() + 2) + " is not a key's id");
    ids.insert(line);
  }
  return ids;
}

Result<SiteKeys> load_site_keys(const std::filesystem::path& path) {
  struct stat state {};
  if (::stat(path.c_str(), &state) != 0) {
    if (errno != ENOENT) return errno_error("read site keys", path.string(), errno);
    auto line = new_line();
    if (!line) return line.error();
    if (auto made = make_new_file(path, std::string(kFirstLine) + "\n" + *line); !made) return made.error();
  } else if ((state.st_mode & 077) != 0) {
    return bad_file(path.string(), "others than its owner may use it: make its mode 0600");
  }
  auto text = read_file(path, 1u << 20);
  if (!text) return text.error();
  auto keys = parse_site_keys(*text);
  if (!keys) return bad_file(path.string(), keys.error().cause);
  return SiteKeys(keys->all(), path);
}

Result<SiteKeys> load_keys_of_site(const std::filesystem::path& path, const std::filesystem::path& ids) {
  auto used = read_ids(ids);
  if (!used) return used.error();
  std::error_code failed;
  if (*used && !std::filesystem::exists(path, failed))
    return Error{ErrorKind::not_found, "read site keys", path.string(),
                 "no such file, and the images in " + ids.parent_path().string() +
                     " are sealed with keys that other hosts have: copy their file to here"};
  auto keys = load_site_keys(path);
  if (!keys) return keys;
  if (!*used) {
    if (auto made = make_new_file(ids, text_of(std::set{key_id_text(keys->active().id)})); !made) return made.error();
    if (used = read_ids(ids); !used) return used.error();
  }
  if (std::ranges::none_of(keys->all(), [&](const SiteKey& key) { return (*used)->contains(key_id_text(key.id)); }))
    return Error{ErrorKind::refused, "read site keys", path.string(),
                 "none of these keys was ever used in " + ids.parent_path().string() +
                     ": all hosts of a site need the same file; copy it from one whose images are there"};
  // After a rotation. Another host that does the same at this moment writes the same.
  if ((*used)->insert(key_id_text(keys->active().id)).second)
    if (auto written = publish_file(ids, text_of(**used), 0600); !written) return written.error();
  return keys;
}

Result<SiteKeys> rotate_site_key(const std::filesystem::path& path) {
  std::error_code failed;
  const std::filesystem::path file = std::filesystem::canonical(path, failed);  // not a link to it is replaced
  if (failed == std::errc::no_such_file_or_directory)
    return Error{ErrorKind::not_found, "read site keys", path.string(),
                 "no such file: the first node daemon of a site makes it, the other hosts have copies of it"};
  if (failed) return bad_file(path.string(), failed.message());
  if (auto there = load_site_keys(file); !there) return there.error();
  auto text = read_file(file, 1u << 20);
  if (!text) return text.error();
  auto line = new_line();
  if (!line) return line.error();
  if (!text->ends_with('\n')) text->push_back('\n');
  if (auto written = publish_file(file, *text + *line, 0600); !written) return written.error();
  return load_site_keys(file);
}

}  // namespace stillpoint::node
