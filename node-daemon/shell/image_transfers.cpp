#include "node-daemon/shell/image_transfers.h"

#include <algorithm>

#include "common/failure.h"

namespace stillpoint::node {
namespace {

constexpr std::size_t kMostReadings = 8;  // each holds blocks of its image in memory

Error refusal(std::string step, std::string object, std::string cause) {
  return {ErrorKind::refused, std::move(step), std::move(object), std::move(cause)};
}

std::string name_of(const wire::ToHost& ask) {
  const auto& piece = ask.write_image();
  return (piece.disk() ? "disk" : "memory") + std::string(" of guest ") + std::to_string(piece.guest()) + " of " +
         ask.gang().job();
}

std::uint64_t big_endian(std::string_view bytes) {
  std::uint64_t value = 0;
  for (const char byte : bytes) value = value << 8 | static_cast<unsigned char>(byte);
  return value;
}

}  // namespace

Status check_foreign_disk(std::string_view head) {
  constexpr std::uint64_t kExternalData = 4;  // of the incompatible features
  const auto bad = [](std::string cause) { return refusal("take a disk", "qcow2 file", std::move(cause)); };
  if (head.size() < kDiskHeadBytes || head.substr(0, 4) != "QFI\xfb") return bad("it is none");
  if (const auto version = big_endian(head.substr(4, 4)); version != 2 && version != 3)
    return bad("version " + std::to_string(version) + " is not known");
  if (big_endian(head.substr(8, 8)) != 0) return bad("it names a backing file, which is not part of it");
  if (big_endian(head.substr(32, 4)) != 0) return bad("it is encrypted");
  if (big_endian(head.substr(4, 4)) == 3 && (big_endian(head.substr(72, 8)) & kExternalData) != 0)
    return bad("it keeps its data in another file, which is not part of it");
  return {};
}

wire::FromHost ImageTransfers::carry_out(const wire::ToHost& ask) {
  wire::FromHost answer;
  const auto take = [&answer](auto result, auto* body) {
    if (result) *body = std::move(*result);
    else {
      answer.clear_body();
      *answer.mutable_failure() = to_wire(result.error());
    }
  };
  if (stopping_.stop_requested())
    *answer.mutable_failure() =
        to_wire(Error{ErrorKind::transient, "move an image", "", "the node daemon is stopping"});
  else if (ask.has_read_image()) take(read(ask.read_image()), answer.mutable_image_piece());
  else if (ask.has_write_image()) take(write(ask), answer.mutable_image_written());
  else take(keep(ask.keep_images()), answer.mutable_images_kept());
  return answer;
}

// ---- reading

// From the beginning, to where the piece that is asked for begins.
Status ImageTransfers::open(Reading& reading, const wire::ReadImage& ask) {
  reading.reader.reset();
  auto reader = store_.open(ask.file(), {ask.peers().begin(), ask.peers().end()});
  if (!reader) return reader.error();
  reading.next.clear();
  reading.last.Clear();
  reading.begin = 0;
  for (std::uint64_t at = 0; at < ask.offset();) {
    if (stopping_.stop_requested()) return Error{ErrorKind::transient, "read image", ask.file().path(), "given up"};
    auto block = (*reader)->read();
    if (!block) return block.error();
    if (block->empty()) return refusal("read image", ask.file().path(), "it ends before byte " + std::to_string(at));
    at += block->size();
    if (at > ask.offset()) reading.next = block->substr(block->size() - (at - ask.offset()));
  }
  reading.begin = ask.offset();
  reading.reader = std::move(*reader);
  return {};
}

Status ImageTransfers::fill(Reading& reading) {
  std::string data = std::exchange(reading.next, {});
  bool last = false;
  while (data.size() < kPieceBytes && !last) {
    auto block = reading.reader->read();
    if (!block) return block.error();
    last = block->empty();
    data += *block;
  }
  if (data.size() > 2 * kPieceBytes) {  // a large block: the rest is the next piece's
    reading.next = data.substr(kPieceBytes);
    data.resize(kPieceBytes);
  }
  reading.last.set_last(last && reading.next.empty());
  reading.last.set_data(std::move(data));
  return {};
}

Result<wire::ImagePiece> ImageTransfers::read(const wire::ReadImage& ask) {
  std::shared_ptr<Reading> reading;
  {
    const std::lock_guard lock(mutex_);
    auto& slot = readings_[ask.file().path()];
    if (!slot) slot = std::make_shared<Reading>();
    slot->used = Clock::now();
    reading = slot;
    if (readings_.size() > kMostReadings) {
      const auto oldest = std::ranges::min_element(readings_, {}, [&](const auto& entry) {
        return entry.second == reading ? Clock::time_point::max() : entry.second->used;
      });
      readings_.erase(oldest);
    }
  }
  const std::lock_guard one(reading->mutex);
  const std::uint64_t end = reading->begin + reading->last.data().size();
  const bool same = !reading->last.data().empty() && ask.offset() == reading->begin;
  if (!reading->reader || (!same && ask.offset() != end)) {
    if (auto opened = open(*reading, ask); !opened) return opened.error();
  } else if (same) {
    return reading->last;
  } else {
    reading->begin = end;
  }
  if (auto filled = fill(*reading); !filled) {
    reading->reader.reset();
    return filled.error();
  }
  wire::ImagePiece piece = reading->last;
  if (piece.last()) {  // asked again, it is read again
    const std::lock_guard lock(mutex_);
    const auto found = readings_.find(ask.file().path());
    if (found != readings_.end() && found->second == reading) readings_.erase(found);
  }
  return piece;
}

// ---- writing

Result<std::shared_ptr<ImageTransfers::Writing>> ImageTransfers::writing_of(const wire::ToHost& ask) {
  const auto& piece = ask.write_image();
  const WriteKey key{ask.gang().job(), ask.epoch()};
  const PartKey part{piece.guest(), piece.disk()};
  const std::lock_guard lock(mutex_);
  auto& slot = writings_[key][part];
  if (slot) {
    slot->used = Clock::now();
    return slot;
  }
  if (piece.offset() != 0) {
    std::erase_if(writings_[key], [&](const auto& entry) { return entry.first == part; });
    return Error{ErrorKind::transient, "write image", name_of(ask),
                 "this host has not its beginning any more; begin again"};
  }
  const auto kind = piece.disk() ? ImageName::Part::disk : ImageName::Part::memory;
  auto writer =
      store_.begin({{ask.gang().job()}, Epoch{ask.epoch()}, GuestIndex{piece.guest()}, kind}, stopping_.get_token());
  if (!writer) {
    writings_[key].erase(part);
    return writer.error();
  }
  slot = std::make_shared<Writing>();
  slot->writer = std::move(*writer);
  slot->used = Clock::now();
  return slot;
}

Result<wire::ImageWritten> ImageTransfers::write(const wire::ToHost& ask) {
  const auto& piece = ask.write_image();
  auto found = writing_of(ask);
  if (!found) return found.error();
  Writing& writing = **found;
  const std::uint64_t end = piece.offset() + piece.data().size();
  const bool again = piece.offset() == writing.begin && end == writing.end && (end > 0 || !writing.writer);
  if (again && piece.last() == !writing.writer) return writing.answer;
  if (!writing.writer || piece.offset() != writing.end)
    return refusal("write image", name_of(ask),
                   "the piece at byte " + std::to_string(piece.offset()) + " does not follow what is there, " +
                       std::to_string(writing.end) + " bytes");
  if (piece.disk() && piece.offset() == 0)
    if (auto safe = check_foreign_disk(std::string_view(piece.data()).substr(0, kDiskHeadBytes)); !safe)
      return safe.error();
  if (auto written = writing.writer->write(piece.data()); !written) return written.error();
  writing.begin = piece.offset();
  writing.end = end;
  if (!piece.last()) return wire::ImageWritten();
  auto file = writing.writer->commit();
  if (!file) return file.error();
  writing.writer.reset();
  *writing.answer.mutable_file() = std::move(*file);
  return writing.answer;
}

Result<wire::ImagesKept> ImageTransfers::keep(const wire::KeepImages& ask) {
  wire::ImagesKept kept_all;
  for (const auto& image : ask.images()) {
    auto& kept = *kept_all.add_images() = image;
    if (auto done = store_.replicate(kept, ask.durability(), stopping_.get_token()); !done) return done.error();
  }
  return kept_all;
}

// ---- giving up

void ImageTransfers::forget(const JobId& job, const std::vector<Epoch>& epochs) {
  std::vector<std::map<PartKey, std::shared_ptr<Writing>>> gone;  // a writer's end may block
  const std::lock_guard lock(mutex_);
  for (const Epoch epoch : epochs)
    if (auto node = writings_.extract({job.value, epoch.value}); !node.empty())
      gone.push_back(std::move(node.mapped()));
}

void ImageTransfers::expire(Clock::time_point now) {
  std::vector<std::shared_ptr<void>> gone;
  const auto is_old = [&](const auto& entry) {
    if (now - entry.second->used < kIdle || entry.second.use_count() > 1) return false;
    gone.push_back(entry.second);
    return true;
  };
  const std::lock_guard lock(mutex_);
  std::erase_if(readings_, is_old);
  for (auto& [key, parts] : writings_) std::erase_if(parts, is_old);
  std::erase_if(writings_, [](const auto& entry) { return entry.second.empty(); });
}

void ImageTransfers::stop() { stopping_.request_stop(); }

}  // namespace stillpoint::node
