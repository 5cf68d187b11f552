#include "bench/vm/guest_work.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace stillpoint::bench {
namespace {
constexpr std::size_t kKeptBeats = 200'000;
}

GuestWork::GuestWork(Fd link) : link_(std::move(link)), reader_([this] { read(); }) {}

GuestWork::~GuestWork() {
  stop_ = true;
  reader_.join();
}

void GuestWork::send(const std::string& line) {
  std::string_view left = line;
  while (!left.empty()) {
    const ssize_t n = ::send(link_.get(), left.data(), left.size(), MSG_NOSIGNAL);
    if (n > 0) left.remove_prefix(static_cast<std::size_t>(n));
    else if (errno != EAGAIN && errno != EINTR) return;
  }
}

void GuestWork::read() {
  std::string received;
  while (!stop_) {
    pollfd wanted{link_.get(), POLLIN, 0};
    if (::poll(&wanted, 1, 100) <= 0) continue;
    char block[65536];
    const ssize_t n = ::recv(link_.get(), block, sizeof block, 0);
    if (n == 0) return;
    if (n < 0) continue;
    received.append(block, static_cast<std::size_t>(n));
    for (std::size_t end; (end = received.find('\n')) != received.npos; received.erase(0, end + 1))
      take(received.substr(0, end));
  }
}

void GuestWork::take(const std::string& line) {
  const std::lock_guard lock(mutex_);
  if (line.starts_with("s ")) {
    beats_.push_back({Clock::now(), std::strtod(line.c_str() + 2, nullptr)});
    if (beats_.size() > kKeptBeats) beats_.pop_front();
  } else {
    words_.push_back(line);
  }
  changed_.notify_all();
}

bool GuestWork::wait_for(const std::string& word, std::chrono::seconds deadline) {
  std::unique_lock lock(mutex_);
  const auto arrived = [&] {
    return std::ranges::any_of(words_, [&](const std::string& line) { return line.starts_with(word); });
  };
  if (!changed_.wait_for(lock, deadline, arrived)) return false;
  words_.clear();
  return true;
}

double GuestWork::steps_at(Clock::time_point when) {
  std::unique_lock lock(mutex_);
  // The beat that ends the interval may not have come yet.
  changed_.wait_for(lock, std::chrono::seconds(20), [&] { return !beats_.empty() && beats_.back().when >= when; });
  const auto after = std::ranges::lower_bound(beats_, when, {}, &Beat::when);
  if (after == beats_.end()) return beats_.empty() ? 0 : beats_.back().steps;
  if (after == beats_.begin()) return after->steps;
  const auto before = std::prev(after);
  const auto seconds = [](auto span) { return std::chrono::duration<double>(span).count(); };
  const double share = seconds(when - before->when) / seconds(after->when - before->when);
  return before->steps + share * (after->steps - before->steps);
}

double GuestWork::pace(Clock::time_point from, Clock::time_point to) {
  return (steps_at(to) - steps_at(from)) / std::chrono::duration<double>(to - from).count();
}

double GuestWork::longest_gap_ms(Clock::time_point from, Clock::time_point to) {
  (void)steps_at(to);
  const std::lock_guard lock(mutex_);
  double longest = 0;
  for (std::size_t i = 1; i < beats_.size(); ++i)
    if (beats_[i].when >= from && beats_[i - 1].when <= to)
      longest =
          std::max(longest, std::chrono::duration<double, std::milli>(beats_[i].when - beats_[i - 1].when).count());
  return longest;
}

}  // namespace stillpoint::bench
