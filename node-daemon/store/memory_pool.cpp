#include "node-daemon/store/memory_pool.h"

#include <malloc.h>

namespace stillpoint::node {
namespace {

constexpr int kHeaps = 2;

}  // namespace

void share_heap() { ::mallopt(M_ARENA_MAX, kHeaps); }

void trim_heap() { ::malloc_trim(0); }

std::size_t MemoryPool::used() const {
  const std::lock_guard lock(mutex_);
  return used_;
}

std::size_t MemoryPool::share() const {
  const std::lock_guard lock(mutex_);
  return share_of(members_ + 1);
}

void MemoryPool::wake() {
  const std::lock_guard lock(mutex_);
  changed_.notify_all();
}

MemoryPool::Member::Member(std::shared_ptr<MemoryPool> pool) : pool_(std::move(pool)) {
  const std::lock_guard lock(pool_->mutex_);
  ++pool_->members_;
}

MemoryPool::Member::~Member() {
  const std::lock_guard lock(pool_->mutex_);
  pool_->used_ -= held_;
  --pool_->members_;
  pool_->changed_.notify_all();
}

bool MemoryPool::Member::take(std::size_t bytes, const std::stop_token& stop, const std::function<bool()>& given_up) {
  std::unique_lock lock(pool_->mutex_);
  const auto fits = [&] {
    return held_ == 0 || (held_ + bytes <= pool_->share_of(pool_->members_) && pool_->used_ + bytes <= pool_->bytes_);
  };
  pool_->changed_.wait(lock, stop, [&] { return given_up() || fits(); });
  if (stop.stop_requested() || given_up()) return false;
  held_ += bytes;
  pool_->used_ += bytes;
  return true;
}

void MemoryPool::Member::add(std::size_t bytes) {
  const std::lock_guard lock(pool_->mutex_);
  held_ += bytes;
  pool_->used_ += bytes;
}

void MemoryPool::Member::give(std::size_t bytes) {
  const std::lock_guard lock(pool_->mutex_);
  held_ -= bytes;
  pool_->used_ -= bytes;
  pool_->changed_.notify_all();
}

bool MemoryPool::Member::is_over() const {
  const std::lock_guard lock(pool_->mutex_);
  return held_ > pool_->share_of(pool_->members_) || pool_->used_ > pool_->bytes_;
}

}  // namespace stillpoint::node
