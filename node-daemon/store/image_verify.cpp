#include "node-daemon/store/image_verify.h"

#include "common/log.h"
#include "node-daemon/store/store_mend.h"

namespace stillpoint::node {
namespace {

// The problems of an image that no place is known to have whole, while not all of them could be asked: not damage yet.
void leave_open(std::vector<Error>& problems) {
  for (Error& problem : problems) {
    problem.kind = ErrorKind::transient;
    problem.cause += "; a copy may be whole, but the one who has it could not be asked";
  }
}

}  // namespace

Result<ImageCheck> check_image(ChunkStore& store, const wire::ImageFile& file, const std::string& image,
                               bool& list_is_bad, const std::stop_token& stop) {
  auto same = check_digest(store, file, image);
  list_is_bad = !same && same.error().kind == ErrorKind::damaged;
  if (list_is_bad) return ImageCheck{0, {same.error()}, {}, {}};
  if (!same) return same.error();
  return store.verify_image(image, stop);
}

Result<ImageCheck> mend_image(ChunkStore& there, ChunkStore& here, const wire::ImageFile& file,
                              const std::string& image, const std::stop_token& stop) {
  if (auto same = check_digest(there, file, image); !same) return same.error();
  bool list_is_bad = false;
  auto found = check_image(here, file, image, list_is_bad, stop);
  if (found && list_is_bad) {
    if (auto mended = mend_list(here, there, image, stop); !mended) return mended.error();
    found = check_image(here, file, image, list_is_bad, stop);
  }
  if (!found || found->bad.empty()) return found;
  if (auto mended = mend_blocks(here, there, found->bad, stop); !mended) return mended.error();
  return check_image(here, file, image, list_is_bad, stop);
}

ImageCheck mend_from_places(std::span<const ImageOpener> places, const wire::ImageFile& file, ImageCheck found,
                            bool all_can_be_asked, const std::string& where, const MendFrom& mend_from) {
  bool all_asked = all_can_be_asked;
  for (const ImageOpener& place : places) {
    auto other = place.open();
    auto mended = other ? mend_from(*other->store) : other.error();
    if (mended && mended->problems.empty()) {
      mended->mended.push_back(file.path() + (where.empty() ? "" : " in " + where) + " was put right from " +
                               place.words + ": " + found.problems.front().message());
      return std::move(*mended);
    }
    const Error why = mended ? mended->problems.front() : mended.error();
    log_warn("image not put right",
             {{"image", file.path()}, {"in", where}, {"from", place.words}, {"cause", why.message()}});
    if (why.kind != ErrorKind::damaged && why.kind != ErrorKind::not_found) all_asked = false;
  }
  if (!all_asked) leave_open(found.problems);
  return found;
}

namespace {

class ObjectStoreCheck {
 public:
  ObjectStoreCheck(ImageCopies& copies, const wire::ImageFile& file, const std::string& owner, const std::string& image,
                   const ObjectStoreMending& mending, const std::stop_token& stop)
      : copies_(copies), file_(file), owner_(owner), image_(image), mending_(mending), stop_(stop) {}

  Result<ImageCheck> run() {
    auto found = look();
    if (!found || found->problems.empty()) return found;
    return mend_from_places(mending_.places, file_, *found, mending_.all_named, "the S3 store",
                            [&](ChunkStore& other) { return mend_from(other, *found); });
  }

 private:
  Result<ImageCheck> look() {
    auto view = copies_.at_object_store(owner_);
    if (!view) return view.error();
    bool list_is_bad = false;
    return check_image((*view)->store(), file_, image_, list_is_bad, stop_);
  }

  // First the list, if it is that, then what it lists.
  Result<ImageCheck> mend_from(ChunkStore& other, ImageCheck found) {
    if (auto same = check_digest(other, file_, image_); !same) return same.error();
    for (int step = 0; step < 2 && !found.problems.empty(); ++step) {
      if (auto mended = copies_.mend_in_object_store(mending_.own, owner_, image_, found, other, stop_); !mended)
        return mended.error();
      auto again = look();
      if (!again) return again;
      found = std::move(*again);
    }
    return found;
  }

  ImageCopies& copies_;
  const wire::ImageFile& file_;
  const std::string &owner_, &image_;
  const ObjectStoreMending& mending_;
  const std::stop_token& stop_;
};

}  // namespace

Result<ImageCheck> verify_in_object_store(ImageCopies& copies, const wire::ImageFile& file, const std::string& owner,
                                          const std::string& image, const ObjectStoreMending& mending,
                                          const std::stop_token& stop) {
  return ObjectStoreCheck(copies, file, owner, image, mending, stop).run();
}

}  // namespace stillpoint::node
