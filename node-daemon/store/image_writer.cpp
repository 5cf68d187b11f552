#include "node-daemon/store/image_writer.h"

#include <atomic>
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
  Writer(std::unique_ptr<ImageIngest> ingest, std::string path, std::stop_token stop, UploadCaps* caps,
         std::shared_ptr<MemoryPool> memory)
      : path_(std::move(path)),
        stop_(std::move(stop)),
        caps_(caps),
        memory_(std::move(memory)),
        ingest_(std::move(ingest)) {
    worker_ = std::jthread([this](const std::stop_token& ended) { run(ended); });
  }
  ~Writer() override { worker_.request_stop(); }

  Status write(std::string_view raw) override {
    const bool has_room = buffer_.take(raw.size(), stop_, [this] { return has_failed_.load(); });
    const std::lock_guard lock(mutex_);
    if (!has_room) return failed_ ? Status(*failed_) : given_up();
    blocks_.emplace_back(raw);
    changed_.notify_all();
    return {};
  }

  Result<wire::ImageFile> commit() override {
    {
      std::unique_lock lock(mutex_);
      if (auto ready = wait(lock, [this] { return blocks_.empty() && !busy_; }); !ready) return ready.error();
    }
    // The worker has nothing to do and gets nothing more: from here on this thread works alone.
    const UploadCaps::Work work(caps_);
    auto figures = ingest_->commit();
    if (!figures) return figures.error();
    pause(caps_, stop_);
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
    if (stop_.stop_requested()) return given_up();
    return {};
  }
  Error given_up() const { return {ErrorKind::refused, "store image", path_, "it was given up"}; }

  void run(const std::stop_token& stop) {
    const UploadCaps::Work work(caps_);
    std::unique_lock lock(mutex_);
    for (;;) {
      if (!changed_.wait(lock, stop, [&] { return !blocks_.empty(); }) || stop.stop_requested()) return;
      const std::string block = std::move(blocks_.front());
      blocks_.pop_front();
      busy_ = true;
      lock.unlock();
      const Status done = ingest_->write(block);
      pause(caps_, stop);
      lock.lock();
      busy_ = false;
      buffer_.give(block.size());
      if (!done) {
        failed_ = done.error();
        has_failed_ = true;
        memory_->wake();
      }
      changed_.notify_all();
      if (failed_) return;
    }
  }

  const std::string path_;
  const std::stop_token stop_;
  UploadCaps* const caps_;
  const std::shared_ptr<MemoryPool> memory_;
  // The worker's alone while blocks_ is not empty or busy_ is set; commit()'s afterwards.
  const std::unique_ptr<ImageIngest> ingest_;
  std::mutex mutex_;
  std::condition_variable_any changed_;  // with stop tokens: a plain one would miss a stop between test and wait
  std::deque<std::string> blocks_;
  MemoryPool::Member buffer_{memory_};  // for them and the one that the worker has
  bool busy_ = false;
  std::optional<Error> failed_;
  std::atomic<bool> has_failed_ = false;  // for who waits with another lock
  std::jthread worker_;                   // last: ends before what it uses
};

}  // namespace

std::unique_ptr<ImageWriter> make_image_writer(std::unique_ptr<ImageIngest> ingest, const std::string& path,
                                               std::stop_token stop, UploadCaps* caps,
                                               std::shared_ptr<MemoryPool> memory) {
  return std::make_unique<Writer>(std::move(ingest), path, std::move(stop), caps, std::move(memory));
}

}  // namespace stillpoint::node
