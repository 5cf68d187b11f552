// An image read back in one place, and put right there from another one: `stillpoint verify` on a host.
//
// Threads: blocking; any.
#pragma once

#include <functional>
#include <span>

#include "node-daemon/store/image_copies.h"
#include "node-daemon/store/image_reader.h"

namespace stillpoint::node {

// list_is_bad: the image's file itself is damaged or gone. An error: nothing is known.
Result<ImageCheck> check_image(ChunkStore& store, const wire::ImageFile& file, const std::string& image,
                               bool& list_is_bad, const std::stop_token& stop);

// Puts right what is wrong with the image here, from one other place, and looks again.
Result<ImageCheck> mend_image(ChunkStore& there, ChunkStore& here, const wire::ImageFile& file,
                              const std::string& image, const std::stop_token& stop);

// What is wrong with the image after one other place was tried.
using MendFrom = std::function<Result<ImageCheck>(ChunkStore& other)>;
// Tries the places in turn until nothing is wrong any more. Else `found`, which has problems: damage only where all
// that may have it whole were asked; all_can_be_asked: nobody who is not among the places has it. where: what is put
// right, for people; may be empty.
ImageCheck mend_from_places(std::span<const ImageOpener> places, const wire::ImageFile& file, ImageCheck found,
                            bool all_can_be_asked, const std::string& where, const MendFrom& mend_from);

// Where the copy in the site's S3 store may be put right from.
struct ObjectStoreMending {
  ChunkStore& own;                  // this host's store
  std::vector<ImageOpener> places;  // that have the image, or may; none: it is not this host's to put right
  bool all_named = false;           // nobody else has it
};
// As ImageStore::verify_in_object_store() says. As those who restore from there do, it opens the store there anew.
Result<ImageCheck> verify_in_object_store(ImageCopies& copies, const wire::ImageFile& file, const std::string& owner,
                                          const std::string& image, const ObjectStoreMending& mending,
                                          const std::stop_token& stop);

}  // namespace stillpoint::node
