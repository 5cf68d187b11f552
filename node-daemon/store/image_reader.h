// An image read from the first of several places that has it whole, and on from the next one where that fails on the way:
// what every place gives is the same bytes, since the image's list, which the catalog's digest vouches for, says them.
// Threads: as ImageReader says.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "node-daemon/store/chunk_store.h"
#include "node-daemon/store/image_store.h"

namespace stillpoint::node {

struct ImagePlace {
  std::shared_ptr<void> held;  // what the store needs as long as it is read
  ChunkStore* store = nullptr;
};
struct ImageOpener {
  std::string words;  // "this host", "host h3"
  std::function<Result<ImagePlace>()> open;
};

// damaged if the image's list is gone, or is not the one that the catalog recorded: it vouches for every page by its
// seals.
Status check_digest(ChunkStore& store, const wire::ImageFile& file, const std::string& image);

// An error when none of the places has it: damaged if every one could be asked, otherwise transient.
Result<std::unique_ptr<ImageReader>> open_image_reader(const wire::ImageFile& file, const std::string& image,
                                                       std::vector<ImageOpener> places);

}  // namespace stillpoint::node
