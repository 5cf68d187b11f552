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

constexpr std::string_view kFirstLine = "stillpoint-store-keys 2", kFirstLineUnchecked = "stillpoint-store-keys 1";
constexpr std::size_t kIdDigits = 16, kKeyDigits = 64, kCheckDigits = 16;
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

Result<SiteKey> new_key() {
  auto id = random_id();
  if (!id) return id.error();
  auto key = random_key();
  if (!key) return key.error();
  return SiteKey{get_be<std::uint64_t>(as_text(*id).data()), *key};
}

std::string check_of(const SiteKey& key) {
  std::string id;
  put_be(id, key.id);
  return hex(as_text(derive(key.key, "check", id))).substr(0, kCheckDigits);
}

// What is wrong with the line; nothing: `key` is what it says.
std::string parse_line(std::string_view line, bool is_checked, SiteKey& key) {
  constexpr std::size_t kUnchecked = kIdDigits + 1 + kKeyDigits;
  unsigned char id[kIdDigits / 2];
  const bool is_key = line.size() == kUnchecked + (is_checked ? 1 + kCheckDigits : 0) && line[kIdDigits] == ' ' &&
                      parse_hex(line.substr(0, kIdDigits), id, sizeof id) &&
                      parse_hex(line.substr(kIdDigits + 1, kKeyDigits), key.key.data(), key.key.size());
  if (!is_key) return is_checked ? "is not an id, a key and their check" : "is not an id and a key";
  key.id = get_be<std::uint64_t>(reinterpret_cast<const char*>(id));
  if (is_checked && line.substr(kUnchecked) != " " + check_of(key))
    return "is damaged: its check is of another id or key";
  return "";
}

// Nothing: no key was used here yet.
Result<std::optional<std::set<std::string>>> read_ids(const std::filesystem::path& path) {
  auto text = read_file(path, 1u << 20);
  if (!text && text.error().kind == ErrorKind::not_found) return std::optional<std::set<std::string>>();
  if (!text) return text.error();
  auto ids = parse_key_ids(*text);
  if (!ids)
    return Error{ids.error().kind, ids.error().step, path.string(),
                 ids.error().cause + ": if this host's keys are the site's, remove it; it is then made again"};
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
  if (!std::getline(in, line) || (line != kFirstLine && line != kFirstLineUnchecked))
    return bad_file("", "its first line is not the one of version 1 or 2");
  const bool is_checked = line == kFirstLine;
  std::vector<SiteKey> keys;
  for (int number = 2; std::getline(in, line); ++number) {
    if (line.empty()) continue;
    SiteKey key;
    if (const std::string wrong = parse_line(line, is_checked, key); !wrong.empty())
      return bad_file("", "line " + std::to_string(number) + " " + wrong);
    if (std::ranges::any_of(keys, [&](const SiteKey& other) { return other.id == key.id; }))
      return bad_file("", "two keys have one id");
    keys.push_back(key);
  }
  if (keys.empty()) return bad_file("", "no key in it");
  return SiteKeys(std::move(keys));
}

std::string site_keys_text(const SiteKeys& keys) {
  std::string text = std::string(kFirstLine) + "\n";
  for (const SiteKey& key : keys.all())
    text += key_id_text(key.id) + " " + hex(as_text(key.key)) + " " + check_of(key) + "\n";
  return text;
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
    auto key = new_key();
    if (!key) return key.error();
    if (auto made = make_new_file(path, site_keys_text(SiteKeys({*key}))); !made) return made.error();
  } else if ((state.st_mode & 077) != 0) {
    return bad_file(path.string(), "others than its owner may use it: make its mode 0600");
  }
  auto text = read_file(path, 1u << 20);
  if (!text) return text.error();
  auto keys = parse_site_keys(*text);
  if (!keys)
    return bad_file(path.string(), keys.error().cause + ": put it back from its backup, or copy it from another host");
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
                     ": all hosts of a site need the same file; copy it from one whose images are there (where the two "
                     "files are the same, " +
                     ids.string() + " is damaged: remove it; it is then made again)"};
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
  auto there = load_site_keys(file);
  if (!there) return there.error();
  auto key = new_key();
  if (!key) return key.error();
  std::vector<SiteKey> keys = there->all();
  keys.push_back(*key);
  if (auto written = publish_file(file, site_keys_text(SiteKeys(std::move(keys))), 0600); !written)
    return written.error();
  return load_site_keys(file);
}

}  // namespace stillpoint::node
