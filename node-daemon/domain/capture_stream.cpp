#include "node-daemon/domain/capture_stream.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

namespace stillpoint::node {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPipeBytes = 1 << 20;
constexpr auto kGathering = std::chrono::microseconds(500);
constexpr auto kSilence = std::chrono::seconds(60);  // QEMU writes nothing for so long: something is wrong
constexpr const char* kFdName = "stillpoint-capture";

}  // namespace

CaptureStream::CaptureStream(virDomainPtr domain, EventHub& events, MemorySink& sink)
    : domain_(domain), name_(virDomainGetName(domain)), watch_(events, name_), sink_(sink), buffer_(kPipeBytes, '\0') {}

Status CaptureStream::open(Writes writes) {
  gathers_ = writes == Writes::pages;
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return errno_error("capture", name_, errno);
  pipe_.reset(ends[0]);
  const Fd write_end(ends[1]);
  if (gathers_) (void)set_room(kPipeBytes);  // a wish; the default works
  auto given = monitor_command(domain_, {{"execute", "getfd"}, {"arguments", {{"fdname", kFdName}}}}, ends[1]);
  if (!given) return given.error();
  return {};
}

bool CaptureStream::set_room(int bytes) { return ::fcntl(pipe_.get(), F_SETPIPE_SZ, bytes) >= 0; }

Status CaptureStream::begin() {
  auto begun =
      monitor_command(domain_, {{"execute", "migrate"}, {"arguments", {{"uri", std::string("fd:") + kFdName}}}});
  if (!begun) return begun.error();
  return {};
}

Result<bool> CaptureStream::pump() {
  pollfd polls[2] = {{pipe_.get(), POLLIN, 0}, {watch_.fd(), POLLIN, 0}};
  const int ready = ::poll(polls, 2, static_cast<int>(std::chrono::milliseconds(kSilence).count()));
  if (ready < 0 && errno == EINTR) return true;
  if (ready < 0) return errno_error("capture", name_, errno);
  if (ready == 0) return error(ErrorKind::deadline, "QEMU does not go on with the memory stream");
  take_events();
  if (!(polls[0].revents & (POLLIN | POLLHUP | POLLERR))) return true;
  if (gathers_ && !(polls[0].revents & POLLHUP)) gather();
  const ssize_t n = ::read(pipe_.get(), buffer_.data(), buffer_.size());
  if (n < 0 && errno == EINTR) return true;
  if (n < 0) return errno_error("capture", name_, errno);
  if (n == 0) return false;
  bytes_ += static_cast<std::uint64_t>(n);
  if (auto written = sink_.write({buffer_.data(), static_cast<std::size_t>(n)}); !written) return written.error();
  return true;
}

// QEMU writes little at a time, and each write that finds a reader asleep wakes it: time of both processors that the
// machine does not get. So a reader that is awake lets some come together; the pipe holds more than arrives meanwhile.
void CaptureStream::gather() {
  pollfd events{watch_.fd(), POLLIN, 0};
  const timespec gathering{0, std::chrono::nanoseconds(kGathering).count()};
  if (::ppoll(&events, 1, &gathering, nullptr) > 0) take_events();
}

void CaptureStream::take_events() {
  while (const auto event = watch_.next()) {
    if (event->event == "STOP" && !stopped_at_) stopped_at_ = event->micros;
    if (event->event == "RESUME" && stopped_at_ && !resumed_at_) resumed_at_ = event->micros;
  }
}

bool CaptureStream::wait_for(const std::int64_t& moment, Clock::time_point deadline) {
  for (take_events(); moment == 0; take_events()) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    pollfd events{watch_.fd(), POLLIN, 0};
    ::poll(&events, 1, static_cast<int>(left));
  }
  return true;
}

}  // namespace stillpoint::node
