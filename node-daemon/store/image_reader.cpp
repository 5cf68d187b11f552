#include "node-daemon/store/image_reader.h"

#include <optional>

#include "common/log.h"
#include "node-daemon/store/digest.h"

namespace stillpoint::node {

Status check_digest(ChunkStore& store, const wire::ImageFile& file, const std::string& image) {
  auto list = store.image_file(image);
  if (!list && list.error().kind == ErrorKind::not_found)
    return Error{ErrorKind::damaged, "open image", file.path(), "it is gone"};
  if (!list) return list.error();
  auto bytes = (*list)->read(0, (*list)->size());
  if (!bytes) return bytes.error();
  Sha256 digest;
  digest.add(*bytes);
  if (digest.finish() == file.sha256()) return {};
  return Error{ErrorKind::damaged, "verify image", file.path(), "its SHA-256 is not the recorded one"};
}

namespace {

class Reader final : public ImageReader {
 public:
  Reader(wire::ImageFile file, std::string image, std::vector<ImageOpener> places)
      : file_(std::move(file)), image_(std::move(image)), places_(std::move(places)) {}

  // The next place that has it, read up to where the one before it came to.
  Status go_on() {
    for (; next_ < places_.size(); ++next_) {
      const Status opened = open(places_[next_]);
      if (opened) {
        ++next_;
        return {};
      }
      note(places_[next_].words, opened.error());
    }
    return *failed_;
  }

  Result<std::string> read() override {
    for (;;) {
      auto piece = source_->read();
      if (piece) {
        given_ += piece->size();
        return piece;
      }
      note(places_[next_ - 1].words, piece.error());
      if (auto moved = go_on(); !moved) return moved.error();
    }
  }

 private:
  Status open(const ImageOpener& at) {
    source_.reset();
    auto place = at.open();
    if (!place)
      return place.error().kind == ErrorKind::not_found
                 ? Error{ErrorKind::damaged, "open image", file_.path(), "it is not there"}
                 : place.error();
    place_ = std::move(*place);
    if (auto same = check_digest(*place_.store, file_, image_); !same) return same;
    auto source = place_.store->read(image_);
    if (!source) return source.error();
    source_ = std::move(*source);
    return skip();
  }

  Status skip() {
    std::uint64_t left = given_;
    while (left > 0) {
      auto piece = source_->read();
      if (!piece) return piece.error();
      // Pieces are cut alike wherever they come from: a place where they are not gives another image.
      if (piece->empty() || piece->size() > left)
        return Error{ErrorKind::damaged, "read image", file_.path(), "this copy is not the same"};
      left -= piece->size();
    }
    return {};
  }

  void note(const std::string& place, const Error& error) {
    const bool several = places_.size() > 1;
    if (several)
      log_warn("image not read from there", {{"image", file_.path()}, {"place", place}, {"cause", error.message()}});
    const std::string words = several ? place + ": " + error.message() : error.cause;
    if (!failed_) {
      failed_ = error;
      failed_->cause = words;
      return;
    }
    failed_->cause += "; " + words;
    if (error.kind != ErrorKind::damaged) failed_->kind = ErrorKind::transient;
  }

  const wire::ImageFile file_;
  const std::string image_;
  const std::vector<ImageOpener> places_;
  std::size_t next_ = 0;  // of places_
  std::optional<Error> failed_;
  std::uint64_t given_ = 0;
  ImagePlace place_;
  std::unique_ptr<ImageSource> source_;  // goes before what it reads from
};

}  // namespace

Result<std::unique_ptr<ImageReader>> open_image_reader(const wire::ImageFile& file, const std::string& image,
                                                       std::vector<ImageOpener> places) {
  auto reader = std::make_unique<Reader>(file, image, std::move(places));
  if (auto opened = reader->go_on(); !opened) return opened.error();
  return std::unique_ptr<ImageReader>(std::move(reader));
}

}  // namespace stillpoint::node
