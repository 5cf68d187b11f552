// What a node daemon does with its store over three epochs of two guests and a disk, step by step the same in every
// run: images written side by side, one given up, removals and collections with compaction beside images that are being
// written and read, a restart. For tests that break something on the way and then look at what is left.
#pragma once

#include <functional>
#include <set>

#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node::test {

struct Image {
  std::string name, bytes;
  ImageKind kind = ImageKind::memory;
  bool matches(const std::string& read) const;
};

// What the history has promised so far.
struct Facts {
  std::set<std::string> committed;  // commit() returned
  std::set<std::string> removing;   // remove() was called
  // A line each, for a pipe: "+j1/e1/guest-0.ram", "-j1/e1/guest-0.ram".
  void take(const std::string& line);
};

class History {
 public:
  History();
  // told: called with each line of Facts, a commit's right after it, a removal's right before.
  void tell(std::function<void(const std::string&)> told) { told_ = std::move(told); }
  // Until something fails, or to the end. The store stays open.
  Status run(Files& files, const std::filesystem::path& directory);
  static Result<std::unique_ptr<ChunkStore>> open(Files& files, const std::filesystem::path& directory);

  const std::vector<Image>& images() const { return images_; }
  const Facts& facts() const { return facts_; }
  ChunkStore* store() { return store_.get(); }  // nullptr: it could not be opened
  std::uint64_t packs_removed() const { return packs_removed_; }
  std::uint64_t packs_compacted() const { return packs_compacted_; }

 private:
  const Image& image(const std::string& name) const;
  void say(const std::string& line);
  Status first_epoch();
  Status second_epoch();
  Status third_epoch();
  Status last_epoch_alone();
  Status put_whole(const std::string& name);
  Status remove(const std::string& name);
  Status collect();

  std::vector<Image> images_;
  Facts facts_;
  std::function<void(const std::string&)> told_;
  std::unique_ptr<ChunkStore> store_;
  std::uint64_t packs_removed_ = 0, packs_compacted_ = 0;
};

// What does not hold, one line each; empty: all is well. Every image that is to be seen is whole; what was committed
// and not removed is there.
std::vector<std::string> broken_promises(ChunkStore& store, const std::vector<Image>& images, const Facts& facts);
// Files and directories of a store that no image needs, one line each. More dead pages than a collection leaves count.
std::vector<std::string> rubbish(Files& files, const std::filesystem::path& directory,
                                 const SiteKeys& keys = some_keys());

}  // namespace stillpoint::node::test
