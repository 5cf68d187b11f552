// The keys of a site, in one file that only the node daemon reads: a line of format and version, then a line for each
// key: its id, its 32 bytes, and a check of both, in hexadecimal. The last one seals what is written from now on; the
// others open what is there. Rotation: append a line, copy the file to all hosts, restart (docs/operations.md); when
// retention has taken the last image away that knows the old key, its line may go. The check is what tells a damaged
// line from a key: sealed with what was never anybody's key, an image would be lost with the next right file.
//
// Every host of a site needs the same file, or it could not restore what another one stored. Beside the images
// therefore lies a file with the ids of the keys that were used there, which are no secret: "stillpoint-key-ids 1",
// then one to a line.
//
// Values; any thread.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "node-daemon/store/seal.h"

namespace stillpoint::node {

struct SiteKey {
  std::uint64_t id = 0;
  Key key{};
};

class SiteKeys {
 public:
  // file: where they are from, for messages.
  explicit SiteKeys(std::vector<SiteKey> keys, std::filesystem::path file = "store.keys")
      : keys_(std::move(keys)), file_(std::move(file)) {}
  const SiteKey& active() const { return keys_.back(); }
  const SiteKey* find(std::uint64_t id) const;
  const std::vector<SiteKey>& all() const { return keys_; }
  const std::filesystem::path& file() const { return file_; }

 private:
  std::vector<SiteKey> keys_;  // not empty
  std::filesystem::path file_;
};

// What was sealed with a key of another host that is not here yet: whole, for all that is known, but not to be read
// here. transient: it can be once the file was copied to here.
Error missing_key(std::uint64_t id, const SiteKeys& keys);
bool is_missing_key(const Error& error);
// Of a copy that came and cannot be read here: for want of its key it need not be sent again.
ErrorKind kind_for_sender(const Error& error);

// As it stands in the file: 16 hexadecimal digits.
std::string key_id_text(std::uint64_t id);

// Of version 2, and of version 1, in which keys have no check.
Result<SiteKeys> parse_site_keys(std::string_view text);
std::string site_keys_text(const SiteKeys& keys);
// Of the file of ids: each in 16 hexadecimal digits. damaged if it is not such a file.
Result<std::set<std::string>> parse_key_ids(std::string_view text);
// Makes the file, readable for its owner only, if there is none. Refuses one that others may read.
Result<SiteKeys> load_site_keys(const std::filesystem::path& path);
// Of a directory of images: refused if none of the keys was ever used there, though others were; the keys are then
// those of another site, or another host's file was never copied to here. ids: the file of ids; made with the first
// host.
Result<SiteKeys> load_keys_of_site(const std::filesystem::path& path, const std::filesystem::path& ids);
// Appends a new key, which is active for whoever reads the file from then on, and returns what is in it now. The file
// is replaced as a whole, 0600, by one of version 2: after an error it is what it was. not_found: it makes none.
Result<SiteKeys> rotate_site_key(const std::filesystem::path& path);

}  // namespace stillpoint::node
