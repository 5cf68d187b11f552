#include "node-daemon/store/store_mend.h"

#include <map>

#include "node-daemon/store/pack_file.h"
#include "node-daemon/store/store_copy.h"

namespace stillpoint::node {
namespace {

constexpr std::string_view kPacks = "/packs/", kImages = "/images/";

// A store as the place that a copy goes to.
class Destination final : public BlobStore {
 public:
  explicit Destination(ChunkStore& store) : store_(store) {}

  const std::string& where() const override { return where_; }
  Status put(const std::string& name, const ReadableFile& content, std::stop_token) override {
    if (name.starts_with(kPacks)) return store_.put_pack(content, {});
    auto bytes = content.read(0, static_cast<std::size_t>(content.size()));
    if (!bytes) return bytes.error();
    return store_.put_image(name.substr(kImages.size()), *bytes);
  }
  Result<std::shared_ptr<const ReadableFile>> open(const std::string& name) override { return refused(name); }
  Result<std::vector<std::string>> list(const std::string& directory) override { return refused(directory); }
  Status remove(const std::string& name) override { return refused(name); }

 private:
  static Error refused(const std::string& name) {
    return {ErrorKind::refused, "copy", name, "a store is only put into like this"};
  }
  ChunkStore& store_;
  const std::string where_ = "this host";
};

}  // namespace

Status mend_blocks(ChunkStore& here, ChunkStore& there, const std::vector<BlockSlots>& bad,
                   const std::stop_token& stop) {
  if (auto known = there.refresh(); !known) return known;
  std::map<std::string, std::shared_ptr<const ReadableFile>> packs;
  Status lacking;  // what the copy has not got whole, another one may have
  const auto note = [&](const Error& error) {
    if (lacking) lacking = error;
    return error.kind == ErrorKind::damaged;
  };
  for (const BlockSlots& block : bad) {
    if ((block.slots & ~there.slots(block.origin, block.number)) != 0) {
      note({ErrorKind::damaged, "mend image", pack_name(block.origin), "the copy lacks pages of it, too"});
      continue;
    }
    auto pack = there.pack(block.origin, block.number);
    if (pack) packs.try_emplace(std::move(pack->name), std::move(pack->file));
    else if (!note(pack.error())) return pack.error();
  }
  for (const auto& [name, file] : packs) {
    if (stop.stop_requested()) return Error{ErrorKind::transient, "mend image", name, "this host is stopping"};
    if (auto put = here.put_pack(*file, bad); !put && !note(put.error())) return put;
  }
  const Status retired = here.retire_mended();
  return lacking ? retired : lacking;
}

Status mend_list(ChunkStore& here, ChunkStore& there, const std::string& image, const std::stop_token& stop) {
  if (auto known = there.refresh(); !known) return known;
  Destination destination(here);
  auto copied = copy_image(there, image, here, destination, "", stop);
  return copied ? Status{} : Status(copied.error());
}

}  // namespace stillpoint::node
