#include "node-daemon/store/image_writer.h"

#include <fcntl.h>
#include <unistd.h>
#include <zstd.h>

#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "common/fd.h"
#include "common/file.h"
#include "node-daemon/store/digest.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

// Deletes the temporary unless it was published.
class Temporary {
 public:
  explicit Temporary(fs::path path) : path_(std::move(path)) {}
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  ~Temporary() {
    if (!published_) ::unlink(path_.c_str());
  }
  const fs::path& path() const { return path_; }
  void published() { published_ = true; }

 private:
  fs::path path_;
  bool published_ = false;
};

struct FreeStream {
  void operator()(ZSTD_CCtx* stream) const { ZSTD_freeCCtx(stream); }
};

class Writer final : public ImageWriter {
 public:
  Writer(Fd fd, fs::path temporary, fs::path target, std::string relative, const ImageWriterOptions& options)
      : options_(options),
        fd_(std::move(fd)),
        temporary_(std::move(temporary)),
        target_(std::move(target)),
        relative_(std::move(relative)),
        stream_(ZSTD_createCCtx()),
        out_(ZSTD_CStreamOutSize(), '\0') {
    ZSTD_CCtx_setParameter(stream_.get(), ZSTD_c_compressionLevel, options.level);
    ZSTD_CCtx_setParameter(stream_.get(), ZSTD_c_checksumFlag, 1);
    worker_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  }

  ~Writer() override { worker_.request_stop(); }

  Status write(std::string_view raw) override {
    std::unique_lock lock(mutex_);
    if (auto ready = wait(lock, [this] { return queued_ < options_.buffer_bytes; }); !ready) return ready;
    blocks_.emplace_back(raw);
    queued_ += raw.size();
    raw_bytes_ += raw.size();
    changed_.notify_all();
    return {};
  }

  Result<wire::ImageFile> commit() override {
    {
      std::unique_lock lock(mutex_);
      if (auto ready = wait(lock, [this] { return blocks_.empty() && !busy_; }); !ready) return ready.error();
    }
    // The worker has nothing to do and gets nothing more: from here on this thread works alone.
    if (auto ended = compress({}, ZSTD_e_end); !ended) return ended.error();
    if (::fsync(fd_.get()) != 0) return errno_error("fsync", temporary_.path().string(), errno);
    if (::rename(temporary_.path().c_str(), target_.c_str()) != 0)
      return errno_error("rename", target_.string(), errno);
    temporary_.published();
    // The names above it are as new as the file may be: they are made durable here, not when the first byte was
    // awaited.
    fs::path directory = target_;
    for (unsigned level = 0; level < options_.new_directories + 1; ++level) {
      directory = directory.parent_path();
      if (auto synced = sync_directory(directory); !synced) return synced.error();
    }
    wire::ImageFile file;
    file.set_path(relative_);
    file.set_raw_bytes(raw_bytes_);
    file.set_stored_bytes(stored_bytes_);
    file.set_sha256(digest_.finish());
    return file;
  }

 private:
  template <class Ready>
  Status wait(std::unique_lock<std::mutex>& lock, Ready ready) {
    changed_.wait(lock, options_.stop, [&] { return failed_ || ready(); });
    if (failed_) return *failed_;
    if (options_.stop.stop_requested())
      return Error{ErrorKind::refused, "store image", target_.string(), "it was given up"};
    return {};
  }

  void run(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    for (;;) {
      if (!changed_.wait(lock, stop, [&] { return !blocks_.empty(); }) || stop.stop_requested()) return;
      const std::string block = std::move(blocks_.front());
      blocks_.pop_front();
      busy_ = true;
      lock.unlock();
      const Status done = compress(block, ZSTD_e_continue);
      lock.lock();
      busy_ = false;
      queued_ -= block.size();
      if (!done) failed_ = done.error();
      changed_.notify_all();
      if (failed_) return;
    }
  }

  Status compress(std::string_view raw, ZSTD_EndDirective directive) {
    ZSTD_inBuffer in{raw.data(), raw.size(), 0};
    for (;;) {
      ZSTD_outBuffer out{out_.data(), out_.size(), 0};
      const std::size_t left = ZSTD_compressStream2(stream_.get(), &out, &in, directive);
      if (ZSTD_isError(left)) return Error{ErrorKind::permanent, "compress", target_.string(), ZSTD_getErrorName(left)};
      if (auto stored = store(std::string_view(out_.data(), out.pos)); !stored) return stored;
      if (directive == ZSTD_e_end ? left == 0 : in.pos == in.size) return {};
    }
  }

  Status store(std::string_view bytes) {
    digest_.add(bytes);
    stored_bytes_ += bytes.size();
    while (!bytes.empty()) {
      const ssize_t n = ::write(fd_.get(), bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return errno_error("write", target_.string(), errno);
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return {};
  }

  const ImageWriterOptions options_;
  Fd fd_;
  Temporary temporary_;
  const fs::path target_;
  const std::string relative_;

  // The worker's alone while blocks_ is not empty or busy_ is set; commit()'s afterwards.
  std::unique_ptr<ZSTD_CCtx, FreeStream> stream_;
  std::string out_;
  Sha256 digest_;
  std::uint64_t stored_bytes_ = 0;

  std::uint64_t raw_bytes_ = 0;  // the caller's alone

  std::mutex mutex_;
  std::condition_variable_any changed_;  // with stop tokens: a plain one would miss a stop between test and wait
  std::deque<std::string> blocks_;
  std::size_t queued_ = 0;
  bool busy_ = false;
  std::optional<Error> failed_;
  std::jthread worker_;  // last: ends before what it uses
};

}  // namespace

Result<std::unique_ptr<ImageWriter>> make_image_writer(const std::filesystem::path& temporary,
                                                       const std::filesystem::path& target, const std::string& relative,
                                                       const ImageWriterOptions& options) {
  ::unlink(temporary.c_str());  // of this host's own earlier attempt
  Fd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) return errno_error("create", temporary.string(), errno);
  return std::make_unique<Writer>(std::move(fd), temporary, target, relative, options);
}

}  // namespace stillpoint::node
