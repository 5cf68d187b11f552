// What a node daemon keeps in memory of images that come and go, as a bound for all of them together, however many
// machines are captured and restored side by side: what waits for the store, blocks that may be wanted again, what is
// read ahead from elsewhere. Each of these has an equal share and may use what others leave, until they want it.
//
// Threads: any.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>

namespace stillpoint::node {

class MemoryPool {
 public:
  explicit MemoryPool(std::size_t bytes) : bytes_(bytes) {}
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;
  std::size_t used() const;
  std::size_t share() const;  // of one more member
  // Those who wait in take() look again at what they were told to look at.
  void wake();

  class Member {
   public:
    explicit Member(std::shared_ptr<MemoryPool> pool);
    ~Member();
    Member(const Member&) = delete;
    Member& operator=(const Member&) = delete;
    // Waits until so many bytes are within the share and the pool has them; whoever has none at all gets them. False
    // when stop is requested or given_up, called with the pool's lock held, says so.
    bool take(std::size_t bytes, const std::stop_token& stop, const std::function<bool()>& given_up);
    void add(std::size_t bytes);  // at once, whether they are there or not
    void give(std::size_t bytes);
    // More than the share, or more than the pool has: something has to go.
    bool is_over() const;

   private:
    const std::shared_ptr<MemoryPool> pool_;
    std::size_t held_ = 0;  // guarded by the pool's mutex
  };

 private:
  std::size_t share_of(std::size_t members) const { return bytes_ / (members == 0 ? 1 : members); }

  const std::size_t bytes_;
  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  std::size_t used_ = 0, members_ = 0;
};

// For a program's start. What one thread has freed the others shall take first: with a heap for each of its threads, as
// is usual, what was needed at different times would add up.
void share_heap();
// What is free goes back to the system, also from between what is not. Takes some milliseconds: for when work has ended.
void trim_heap();

// Of a daemon that says nothing else. With the index of pages and the program itself it stays below 256 MiB.
inline constexpr std::size_t kImageMemoryBytes = 40u << 20;

}  // namespace stillpoint::node
