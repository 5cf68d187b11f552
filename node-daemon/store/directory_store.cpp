#include "node-daemon/store/directory_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>

#include "common/fd.h"
#include "common/file.h"
#include "node-daemon/store/digest.h"
#include "node-daemon/store/image_writer.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kReadBlock = 1u << 20;

std::string file_name(const GuestIndex& guest, ImageName::Part part) {
  return "guest-" + std::to_string(guest.value) + (part == ImageName::Part::memory ? ".ram.zst" : ".disk.zst");
}

// A job id becomes a directory's name: nothing in it may lead elsewhere.
bool is_plain_name(std::string_view name) {
  return !name.empty() && name.size() <= 64 && name.front() != '.' && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  });
}

Status make_directory(const fs::path& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return errno_error("make directory", path.string(), errno);
  return {};
}

struct FreeStream {
  void operator()(ZSTD_DCtx* stream) const { ZSTD_freeDCtx(stream); }
};

Result<std::string> read_block(int fd, const std::string& object) {
  std::string block(kReadBlock, '\0');
  std::size_t filled = 0;
  while (filled < block.size()) {
    const ssize_t n = ::read(fd, block.data() + filled, block.size() - filled);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("read", object, errno);
    if (n == 0) break;
    filled += static_cast<std::size_t>(n);
  }
  block.resize(filled);
  return block;
}

class Reader final : public ImageReader {
 public:
  Reader(Fd fd, std::string path, wire::ImageFile file)
      : fd_(std::move(fd)), path_(std::move(path)), file_(std::move(file)), stream_(ZSTD_createDCtx()) {}

  Result<std::string> read() override {
    std::string raw(kReadBlock, '\0');
    ZSTD_outBuffer out{raw.data(), raw.size(), 0};
    while (out.pos < out.size) {
      if (in_.pos == in_.size) {
        auto block = read_block(fd_.get(), path_);
        if (!block) return block.error();
        if (block->empty()) break;
        digest_.add(*block);
        block_ = std::move(*block);
        in_ = {block_.data(), block_.size(), 0};
      }
      hint_ = ZSTD_decompressStream(stream_.get(), &out, &in_);
      if (ZSTD_isError(hint_)) return damaged(ZSTD_getErrorName(hint_));
    }
    raw.resize(out.pos);
    raw_bytes_ += raw.size();
    if (raw.empty()) return at_end();
    return raw;
  }

 private:
  Result<std::string> at_end() {
    if (hint_ != 0) return damaged("it ends too early");
    if (raw_bytes_ != file_.raw_bytes())
      return damaged("it holds " + std::to_string(raw_bytes_) + " bytes, not " + std::to_string(file_.raw_bytes()));
    if (!checked_ && digest_.finish() != file_.sha256()) return damaged("its SHA-256 is not the recorded one");
    checked_ = true;
    return std::string();
  }
  Error damaged(std::string cause) const { return {ErrorKind::damaged, "read image", path_, std::move(cause)}; }

  Fd fd_;
  const std::string path_;
  const wire::ImageFile file_;
  std::unique_ptr<ZSTD_DCtx, FreeStream> stream_;
  std::string block_;
  ZSTD_inBuffer in_{nullptr, 0, 0};
  std::size_t hint_ = 1;
  Sha256 digest_;
  std::uint64_t raw_bytes_ = 0;
  bool checked_ = false;
};

class DirectoryStore final : public ImageStore {
 public:
  DirectoryStore(fs::path directory, HostName host) : directory_(std::move(directory)), host_(std::move(host)) {}

  Status clean_up();

  Result<std::unique_ptr<ImageWriter>> begin(const ImageName& name, std::stop_token stop) override {
    auto epoch = epoch_directory(name.job, name.epoch);
    if (!epoch) return epoch.error();
    const std::string file = file_name(name.guest, name.part);
    for (int attempt = 0;; ++attempt) {
      for (const fs::path& path : {epoch->parent_path(), *epoch})
        if (auto made = make_directory(path); !made && !vanished(made.error(), attempt)) return made.error();
      auto writer = make_image_writer(*epoch / ("." + file + temporary_suffix()), *epoch / file,
                                      name.job.value + "/" + epoch->filename().string() + "/" + file,
                                      {.new_directories = 2, .stop = stop});
      if (writer || !vanished(writer.error(), attempt)) return writer;
    }
  }

  Result<std::unique_ptr<ImageReader>> open(const wire::ImageFile& file) override;
  Status remove(const JobId& job, Epoch epoch, const std::optional<std::vector<GuestIndex>>& guests) override;

  Result<std::uint64_t> free_bytes() override {
    struct statvfs figures {};
    if (::statvfs(directory_.c_str(), &figures) != 0)
      return errno_error("ask for free space", directory_.string(), errno);
    return static_cast<std::uint64_t>(figures.f_bavail) * figures.f_frsize;
  }

 private:
  // Not so when the shared file system is not mounted: then nothing is known of any image.
  bool holds_anything() const {
    std::error_code failed;
    const fs::directory_iterator first(directory_, failed);
    return !failed && first != fs::directory_iterator();
  }
  // Another host's remove() may take an empty directory away while this one is about to write into it.
  static bool vanished(const Error& error, int attempt) { return error.kind == ErrorKind::not_found && attempt < 8; }
  std::string temporary_suffix() const { return "." + host_.value + ".tmp"; }
  Result<fs::path> epoch_directory(const JobId& job, Epoch epoch) const {
    if (!is_plain_name(job.value)) return Error{ErrorKind::refused, "find images", job.value, "not a job id"};
    return directory_ / job.value / ("e" + std::to_string(epoch.value));
  }
  Result<fs::path> path_of(const wire::ImageFile& file) const {
    const fs::path relative(file.path());
    const bool inside = relative.is_relative() && std::ranges::all_of(relative, [](const fs::path& part) {
                          return is_plain_name(part.string());
                        });
    if (!inside || relative.empty())
      return Error{ErrorKind::refused, "open image", file.path(), "not a path inside the image directory"};
    return directory_ / relative;
  }

  const fs::path directory_;
  const HostName host_;
};

Status DirectoryStore::clean_up() {
  std::error_code failed;
  for (fs::recursive_directory_iterator entry(directory_, fs::directory_options::skip_permission_denied, failed), end;
       !failed && entry != end; entry.increment(failed)) {
    if (entry.depth() >= 2) entry.disable_recursion_pending();
    const std::string name = entry->path().filename().string();
    const std::string suffix = ".zst" + temporary_suffix();
    if (name.starts_with(".guest-") && name.find(".zst") + suffix.size() == name.size() && name.ends_with(suffix))
      ::unlink(entry->path().c_str());
  }
  // Another host may remove an epoch's directory while this one looks: what it left is looked at next time.
  if (failed && failed != std::errc::no_such_file_or_directory)
    return Error{ErrorKind::permanent, "look through", directory_.string(), failed.message()};
  return {};
}

Result<std::unique_ptr<ImageReader>> DirectoryStore::open(const wire::ImageFile& file) {
  auto path = path_of(file);
  if (!path) return path.error();
  Fd fd(::open(path->c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    const int code = errno;
    if (code == ENOENT && !holds_anything())
      return Error{ErrorKind::transient, "open image", path->string(),
                   "the image directory is not there, or empty; is it mounted here?"};
    if (code == ENOENT) return Error{ErrorKind::damaged, "open image", path->string(), "it is gone"};
    return errno_error("open image", path->string(), code);
  }
  Sha256 digest;
  std::uint64_t size = 0;
  for (;;) {
    auto block = read_block(fd.get(), path->string());
    if (!block) return block.error();
    if (block->empty()) break;
    size += block->size();
    digest.add(*block);
  }
  if (size != file.stored_bytes())
    return Error{ErrorKind::damaged, "verify image", path->string(),
                 "it is " + std::to_string(size) + " bytes long, not " + std::to_string(file.stored_bytes())};
  if (digest.finish() != file.sha256())
    return Error{ErrorKind::damaged, "verify image", path->string(), "its SHA-256 is not the recorded one"};
  if (::lseek(fd.get(), 0, SEEK_SET) != 0) return errno_error("read image", path->string(), errno);
  return std::make_unique<Reader>(std::move(fd), path->string(), file);
}

Status DirectoryStore::remove(const JobId& job, Epoch epoch, const std::optional<std::vector<GuestIndex>>& guests) {
  auto directory = epoch_directory(job, epoch);
  if (!directory) return directory.error();
  if (guests) {
    for (const GuestIndex& guest : *guests)
      for (const auto part : {ImageName::Part::memory, ImageName::Part::disk}) {
        const fs::path path = *directory / file_name(guest, part);
        if (::unlink(path.c_str()) != 0 && errno != ENOENT) return errno_error("delete image", path.string(), errno);
      }
  } else {
    std::error_code failed;
    for (fs::directory_iterator entry(*directory, failed), end; !failed && entry != end; entry.increment(failed))
      if (::unlink(entry->path().c_str()) != 0 && errno != ENOENT)
        return errno_error("delete image", entry->path().string(), errno);
    if (failed && failed != std::errc::no_such_file_or_directory)
      return Error{ErrorKind::permanent, "delete images", directory->string(), failed.message()};
  }
  // Empty directories go too; other guests' images, or another host's temporaries, keep them.
  for (const fs::path& path : {*directory, directory->parent_path()})
    if (::rmdir(path.c_str()) != 0 && errno != ENOENT && errno != ENOTEMPTY && errno != EEXIST)
      return errno_error("delete directory", path.string(), errno);
  return {};
}

}  // namespace

Result<std::unique_ptr<ImageStore>> open_directory_store(const fs::path& directory, const HostName& host) {
  std::error_code failed;
  fs::create_directories(directory.parent_path(), failed);
  if (failed) return Error{ErrorKind::permanent, "make directory", directory.parent_path().string(), failed.message()};
  if (auto made = make_directory(directory); !made) return made.error();
  auto store = std::make_unique<DirectoryStore>(directory, host);
  if (auto clean = store->clean_up(); !clean) return clean.error();
  return std::unique_ptr<ImageStore>(std::move(store));
}

}  // namespace stillpoint::node
