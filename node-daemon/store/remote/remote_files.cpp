#include "node-daemon/store/remote/remote_files.h"

#include <algorithm>
#include <list>
#include <mutex>
#include <optional>

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

Error refused(const char* step, const fs::path& path) {
  return {ErrorKind::refused, step, path.string(), "files elsewhere are only read and deleted"};
}

}  // namespace

// What was read lately, of all files. A piece belongs to whoever is using it, too: nothing is fetched or copied with
// the mutex held.
class RemoteFiles::ReadAhead {
 public:
  using Bytes = std::shared_ptr<const std::string>;
  struct Piece {
    std::uint64_t file = 0, offset = 0;
    Bytes bytes;
    std::uint64_t end() const { return offset + bytes->size(); }
  };

  ReadAhead(const ReadAheadSettings& settings, const std::shared_ptr<MemoryPool>& memory)
      : settings_(settings), memory_(memory), room_(memory) {}

  std::uint64_t new_file() {
    const std::lock_guard lock(mutex_);
    return ++files_;
  }

  std::optional<Piece> find(std::uint64_t file, std::uint64_t offset) {
    const std::lock_guard lock(mutex_);
    const auto found = std::ranges::find_if(pieces_, [&](const Piece& piece) {
      return piece.file == file && piece.offset <= offset && offset < piece.end();
    });
    if (found == pieces_.end()) return std::nullopt;
    pieces_.splice(pieces_.begin(), pieces_, found);
    return *found;
  }

  // How much to fetch at a place where nothing is kept. It goes on, and not begins anew, if a piece ends there or,
  // since readers leave out what they do not need, less than its own length before.
  std::size_t amount(std::uint64_t file, std::uint64_t offset) {
    const std::lock_guard lock(mutex_);
    for (const Piece& piece : pieces_)
      if (piece.file == file && piece.end() <= offset && offset - piece.end() <= piece.bytes->size())
        return std::clamp(2 * piece.bytes->size(), settings_.first, most());
    return settings_.first;
  }

  void keep(Piece piece) {
    const std::lock_guard lock(mutex_);
    room_.add(piece.bytes->size());
    pieces_.push_front(std::move(piece));
    while (!pieces_.empty() && room_.is_over()) {
      room_.give(pieces_.back().bytes->size());
      pieces_.pop_back();
    }
  }

  const ReadAheadSettings& settings() const { return settings_; }

 private:
  // What one asks for at once is a part of what it may keep.
  std::size_t most() const { return std::clamp(memory_->share() / 4, settings_.first, settings_.most); }

  const ReadAheadSettings settings_;
  const std::shared_ptr<MemoryPool> memory_;
  std::mutex mutex_;
  std::list<Piece> pieces_;  // the one used last first
  MemoryPool::Member room_;
  std::uint64_t files_ = 0;
};

class RemoteFiles::File final : public ReadableFile {
 public:
  File(std::shared_ptr<const ReadableFile> file, std::shared_ptr<ReadAhead> read_ahead, std::string path)
      : file_(std::move(file)),
        read_ahead_(std::move(read_ahead)),
        path_(std::move(path)),
        id_(read_ahead_->new_file()) {}

  Result<std::string> read(std::uint64_t offset, std::size_t count) const override {
    if (offset > size() || count > size() - offset)
      return Error{ErrorKind::damaged, "read", path_, "it ends too early"};
    if (count > read_ahead_->settings().most) return file_->read(offset, count);
    std::string out;
    out.reserve(count);
    while (out.size() < count) {
      const std::uint64_t at = offset + out.size();
      auto piece = piece_at(at, count - out.size());
      if (!piece) return piece.error();
      out.append(*piece->bytes, at - piece->offset, count - out.size());
    }
    return out;
  }
  std::uint64_t size() const override { return file_->size(); }

 private:
  Result<ReadAhead::Piece> piece_at(std::uint64_t offset, std::size_t count) const {
    if (auto kept = read_ahead_->find(id_, offset)) return *kept;
    const std::size_t amount = std::max(read_ahead_->amount(id_, offset), count);
    auto bytes = file_->read(offset, std::min<std::uint64_t>(amount, size() - offset));
    if (!bytes) return bytes.error();
    ReadAhead::Piece piece{id_, offset, std::make_shared<const std::string>(std::move(*bytes))};
    read_ahead_->keep(piece);
    return piece;
  }

  const std::shared_ptr<const ReadableFile> file_;
  const std::shared_ptr<ReadAhead> read_ahead_;
  const std::string path_;
  const std::uint64_t id_;
};

RemoteFiles::RemoteFiles(std::shared_ptr<BlobStore> blobs, std::shared_ptr<MemoryPool> memory,
                         const ReadAheadSettings& settings)
    : blobs_(std::move(blobs)),
      read_ahead_(std::make_shared<ReadAhead>(
          settings, memory ? std::move(memory) : std::make_shared<MemoryPool>(kImageMemoryBytes))) {}

RemoteFiles::~RemoteFiles() = default;

Result<std::shared_ptr<const ReadableFile>> RemoteFiles::open(const fs::path& path) {
  auto file = blobs_->open(path.string());
  if (!file) return file.error();
  return std::make_shared<const File>(std::move(*file), read_ahead_, blobs_->where() + "/" + path.string());
}

Result<std::vector<std::string>> RemoteFiles::list(const fs::path& path) { return blobs_->list(path.string()); }

Status RemoteFiles::remove(const fs::path& path) { return blobs_->remove(path.string()); }

Result<std::unique_ptr<WritableFile>> RemoteFiles::create(const fs::path& path) { return refused("create", path); }
Status RemoteFiles::rename(const fs::path& from, const fs::path&) { return refused("rename", from); }
Result<std::uint64_t> RemoteFiles::free_bytes(const fs::path& path) { return refused("ask for the room of", path); }

}  // namespace stillpoint::node
