// The keys of a site, in one file that only the node daemon reads: a line of format and version, then a line for each
// key, its id and its 32 bytes in hexadecimal. The last one seals what is written from now on; the others open what is
// there. Rotation: append a line, restart; when retention has taken the last image away that knows the old key, its
// line may go.
//
// Values; any thread.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "node-daemon/store/seal.h"

namespace stillpoint::node {

struct SiteKey {
  std::uint64_t id = 0;
  Key key{};
};

class SiteKeys {
 public:
  explicit SiteKeys(std::vector<SiteKey> keys) : keys_(std::move(keys)) {}
  const SiteKey& active() const { return keys_.back(); }
  const SiteKey* find(std::uint64_t id) const;

 private:
  std::vector<SiteKey> keys_;  // not empty
};

Result<SiteKeys> parse_site_keys(std::string_view text);
// Makes the file, readable for its owner only, if there is none. Refuses one that others may read.
Result<SiteKeys> load_site_keys(const std::filesystem::path& path);
// Appends a new key, which is active from then on.
Status rotate_site_key(const std::filesystem::path& path);

}  // namespace stillpoint::node
