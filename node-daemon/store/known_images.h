// The images of a store that were there when it was last looked at, and those that came since. Whether one of them has
// gone tells whether another host deleted something. Too many names cost a look more, too few leave space without use.
//
// Threads: any.
#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "node-daemon/store/chunk_store.h"

namespace stillpoint::node {

class KnownImages {
 public:
  void add(const std::string& name);
  // Before a collection: what goes from now on counts as gone.
  void look_anew(ChunkStore& store);
  bool all_there(ChunkStore& store);
  // Adds the image when it is committed. Borrows this object.
  std::unique_ptr<ImageIngest> noting(std::unique_ptr<ImageIngest> ingest, std::string name);

 private:
  std::mutex mutex_;
  std::set<std::string> names_;
  bool looked_ = false;
};

}  // namespace stillpoint::node
