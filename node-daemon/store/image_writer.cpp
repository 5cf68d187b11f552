#include "node-daemon/store/image_writer.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

#include "common/log.h"

namespace stillpoint::node {
namespace {

class Writer final : public ImageWriter {
 public:
  Writer(std::unique_ptr<ImageIngest> ingest, std::string path, std::stop_token stop, std::size_t buffer_bytes)
      : path_(std::move(path)), stop_(std::move(stop)), buffer_bytes_(buffer_bytes), ingest_(std::move(ingest)) {
    worker_ = std::jthread([this](const std::stop_token& ended) { run(ended); });
  }
  ~Writer() override { worker_.request_stop(); }

  Status write(std::string_view raw) override {
    std::unique_lock lock(mutex_);
    if (auto ready = wait(lock, [this] { return queued_ < buffer_bytes_; }); !ready) return ready;
    blocks_.emplace_back(raw);
    queued_ += raw.size();
    changed_.notify_all();
    return {};
  }

  Result<wire::ImageFile> commit() override {
    {
      std::unique_lock lock(mutex_);
      if (auto ready = wait(lock, [this] { return blocks_.empty() && !busy_; }); !ready) return ready.error();
    }
    // The worker has nothing to do and gets nothing more: from here on this thread works alone.
    auto figures = ingest_->commit();
    if (!figures) return figures.error();
    log_info("image stored", {{"image", path_},
                              {"raw_bytes", std::to_string(figures->raw_bytes)},
                              {"pages", std::to_string(figures->pages)},
                              {"new_pages", std::to_string(figures->new_pages)},
                              {"stored_bytes", std::to_string(figures->stored_bytes)}});
    wire::ImageFile file;
    file.set_path(path_);
    file.set_raw_bytes(figures->raw_bytes);
    file.set_stored_bytes(figures->stored_bytes);
    file.set_sha256(figures->sha256);
    return file;
  }

 private:
  template <class Ready>
  Status wait(std::unique_lock<std::mutex>& lock, Ready ready) {
    changed_.wait(lock, stop_, [&] { return failed_ || ready(); });
    if (failed_) return *failed_;
    if (stop_.stop_requested()) return Error{ErrorKind::refused, "store image", path_, "it was given up"};
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
      const Status done = ingest_->write(block);
      lock.lock();
      busy_ = false;
      queued_ -= block.size();
      if (!done) failed_ = done.error();
      changed_.notify_all();
      if (failed_) return;
    }
  }

  const std::string path_;
  const std::stop_token stop_;
  const std::size_t buffer_bytes_;
  // The worker's alone while blocks_ is not empty or busy_ is set; commit()'s afterwards.
  const std::unique_ptr<ImageIngest> ingest_;
  std::mutex mutex_;
  std::condition_variable_any changed_;  // with stop tokens: a plain one would miss a stop between test and wait
  std::deque<std::string> blocks_;
  std::size_t queued_ = 0;
  bool busy_ = false;
  std::optional<Error> failed_;
  std::jthread worker_;  // last: ends before what it uses
};

}  // namespace

std::unique_ptr<ImageWriter> make_image_writer(std::unique_ptr<ImageIngest> ingest, const std::string& path,
                                               std::stop_token stop, std::size_t buffer_bytes) {
  return std::make_unique<Writer>(std::move(ingest), path, std::move(stop), buffer_bytes);
}

}  // namespace stillpoint::node
