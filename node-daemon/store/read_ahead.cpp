#include "node-daemon/store/read_ahead.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

namespace stillpoint::node {
namespace {

class Ahead final : public ImageReader {
 public:
  Ahead(std::unique_ptr<ImageReader> reader, std::size_t buffer_bytes)
      : buffer_bytes_(buffer_bytes), reader_(std::move(reader)) {
    worker_ = std::jthread([this](const std::stop_token& ended) { run(ended); });
  }

  Result<std::string> read() override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !pieces_.empty() || end_; });
    if (pieces_.empty()) {
      if (!*end_) return end_->error();
      return std::string();
    }
    std::string piece = std::move(pieces_.front());
    pieces_.pop_front();
    queued_ -= piece.size();
    changed_.notify_all();
    return piece;
  }

 private:
  void run(const std::stop_token& stop) {
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        if (!changed_.wait(lock, stop, [this] { return queued_ < buffer_bytes_; }) || stop.stop_requested()) return;
      }
      auto piece = reader_->read();
      const std::lock_guard lock(mutex_);
      changed_.notify_all();
      if (!piece || piece->empty()) {
        end_ = piece ? Status() : Status(piece.error());
        return;
      }
      queued_ += piece->size();
      pieces_.push_back(std::move(*piece));
    }
  }

  const std::size_t buffer_bytes_;
  const std::unique_ptr<ImageReader> reader_;  // the worker's alone
  std::mutex mutex_;
  std::condition_variable_any changed_;  // with stop tokens: a plain one would miss a stop between test and wait
  std::deque<std::string> pieces_;
  std::size_t queued_ = 0;     // bytes of pieces_
  std::optional<Status> end_;  // what comes after pieces_
  std::jthread worker_;        // last: ends before what it uses
};

}  // namespace

std::unique_ptr<ImageReader> read_ahead(std::unique_ptr<ImageReader> reader, std::size_t buffer_bytes) {
  return std::make_unique<Ahead>(std::move(reader), buffer_bytes);
}

}  // namespace stillpoint::node
