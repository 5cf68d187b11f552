#include "node-daemon/domain/capture.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "common/log.h"
#include "node-daemon/domain/disk.h"
#include "node-daemon/domain/migration.h"

namespace stillpoint::node {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr int kPipeBytes = 1 << 20;
constexpr auto kSilence = std::chrono::seconds(60);  // QEMU writes nothing for so long: something is wrong
constexpr auto kEnd = std::chrono::seconds(20);      // from the stream's end to QEMU's verdict
constexpr const char* kFdName = "stillpoint-capture";

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

class Capture {
 public:
  Capture(virDomainPtr domain, EventHub& events, CaptureMode mode, MemorySink& sink,
          const std::function<void(CaptureTimes)>& captured)
      : domain_(domain),
        name_(virDomainGetName(domain)),
        events_(events),
        watch_(events, name_),
        mode_(mode),
        sink_(sink),
        captured_(captured) {}

  Status run(const std::filesystem::path& new_layer);
  bool clean() const { return clean_; }

 private:
  Status take(const std::filesystem::path& new_layer);
  Status open_stream();
  Status begin(const std::filesystem::path& new_layer);
  void remove_unless_used(const std::filesystem::path& new_layer);
  Status drain();
  Status finish();
  Status clean_up();
  void take_events();
  void report();
  Error error(ErrorKind kind, std::string cause) const { return {kind, "capture", name_, std::move(cause)}; }

  virDomainPtr domain_;
  const std::string name_;
  EventHub& events_;
  EventWatch watch_;
  const CaptureMode mode_;
  MemorySink& sink_;
  const std::function<void(CaptureTimes)>& captured_;

  const Clock::time_point start_ = Clock::now();
  Fd stream_;  // read end; closed as soon as nobody wants the stream: QEMU's writer then fails
  bool reported_ = false;
  bool clean_ = true;
  std::int64_t stopped_at_ = 0, resumed_at_ = 0;  // microseconds, QEMU's clock; 0 = not seen
  std::uint64_t bytes_ = 0;
};

Status Capture::run(const std::filesystem::path& new_layer) {
  int state = 0;
  if (virDomainGetState(domain_, &state, nullptr, 0) < 0) return libvirt_error("capture", name_);
  if (state != VIR_DOMAIN_RUNNING) return error(ErrorKind::refused, "it does not run");
  if (auto made = make_layer(domain_, new_layer); !made) return made;
  Status taken = take(new_layer);
  if (auto clean = clean_up(); !clean && taken) return clean;
  return taken;
}

Status Capture::take(const std::filesystem::path& new_layer) {
  auto begun = open_stream();
  if (begun) begun = begin(new_layer);
  if (!begun) {
    remove_unless_used(new_layer);
    return begun;
  }
  if (auto drained = drain(); !drained) return drained;
  return finish();
}

Status Capture::open_stream() {
  if (auto set = set_background_snapshot(domain_, mode_ == CaptureMode::background_snapshot); !set) return set;
  if (auto set = set_unlimited_bandwidth(domain_); !set) return set;
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return errno_error("capture", name_, errno);
  stream_.reset(ends[0]);
  const Fd write_end(ends[1]);
  ::fcntl(ends[0], F_SETPIPE_SZ, kPipeBytes);  // a wish; the default works
  auto given = monitor_command(domain_, {{"execute", "getfd"}, {"arguments", {{"fdname", kFdName}}}}, ends[1]);
  if (!given) return given.error();
  return {};
}

Status Capture::begin(const std::filesystem::path& new_layer) {
  if (mode_ == CaptureMode::paused_save && virDomainSuspend(domain_) < 0) return libvirt_error("suspend", name_);
  if (auto switched = switch_to_layer(domain_, new_layer); !switched) return switched;
  auto begun =
      monitor_command(domain_, {{"execute", "migrate"}, {"arguments", {{"uri", std::string("fd:") + kFdName}}}});
  if (!begun) return begun.error();
  return {};
}

void Capture::remove_unless_used(const std::filesystem::path& new_layer) {
  const auto chain = disk_chain_of(domain_);
  std::error_code code;
  if (chain && chain->front() != new_layer) std::filesystem::remove(new_layer, code);
}

// Reads until QEMU closes its end. No monitor command here (monitor.h says why): events tell when the machine stopped
// and went on.
Status Capture::drain() {
  std::string buffer(kPipeBytes, '\0');
  for (;;) {
    pollfd polls[2] = {{stream_.get(), POLLIN, 0}, {watch_.fd(), POLLIN, 0}};
    const int ready = ::poll(polls, 2, static_cast<int>(std::chrono::milliseconds(kSilence).count()));
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return errno_error("capture", name_, errno);
    if (ready == 0) return error(ErrorKind::deadline, "QEMU does not go on with the memory stream");
    take_events();
    if (!(polls[0].revents & (POLLIN | POLLHUP | POLLERR))) continue;
    const ssize_t n = ::read(stream_.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("capture", name_, errno);
    if (n == 0) return {};
    bytes_ += static_cast<std::uint64_t>(n);
    if (auto written = sink_.write({buffer.data(), static_cast<std::size_t>(n)}); !written) return written;
  }
}

void Capture::take_events() {
  while (const auto event = watch_.next()) {
    if (event->event == "STOP" && !stopped_at_) stopped_at_ = event->micros;
    if (event->event == "RESUME" && stopped_at_ && !resumed_at_) resumed_at_ = event->micros;
  }
  // A background snapshot resumes the machine once its state is kept and its memory write-protected.
  if (mode_ == CaptureMode::background_snapshot && resumed_at_) report();
}

void Capture::report() {
  if (std::exchange(reported_, true)) return;
  captured_({static_cast<double>(resumed_at_ - stopped_at_) / 1000.0, ms_since(start_)});
}

Status Capture::finish() {
  const auto deadline = Clock::now() + kEnd;
  auto end = wait_migration_end(domain_, events_, deadline);
  if (!end) return end.error();
  if (end->status != "completed")
    return error(ErrorKind::transient,
                 "QEMU's migration " + end->status + (end->error.empty() ? "" : ": " + end->error));
  if (mode_ == CaptureMode::paused_save && virDomainResume(domain_) < 0) return libvirt_error("resume", name_);
  while (!resumed_at_ && Clock::now() < deadline) {  // the event may still be on its way
    take_events();
    pollfd poll_on{watch_.fd(), POLLIN, 0};
    if (!resumed_at_) ::poll(&poll_on, 1, 100);
  }
  if (!resumed_at_) return error(ErrorKind::deadline, "QEMU did not say that the machine goes on");
  report();
  log_debug("captured", {{"domain", name_}, {"bytes", bytes_}, {"ms", ms_since(start_)}});
  return {};
}

Status Capture::clean_up() {
  stream_.reset();  // first: a QEMU that waits for the pipe answers no command
  auto cancelled = cancel_migration(domain_, events_);
  clean_ = cancelled.has_value();
  if (!clean_)
    log_warn("QEMU's migration state could not be cleaned",
             {{"domain", name_}, {"cause", cancelled.error().message()}});
  int state = 0;
  if (virDomainGetState(domain_, &state, nullptr, 0) < 0 || state != VIR_DOMAIN_PAUSED || virDomainResume(domain_) == 0)
    return {};
  const Error paused = libvirt_error("resume after capture", name_);
  log_error("a machine stays paused after its capture", {{"domain", name_}, {"cause", paused.cause}});
  return paused;
}

}  // namespace

Status capture_domain(virDomainPtr domain, EventHub& events, CaptureMode mode, const std::filesystem::path& new_layer,
                      MemorySink& sink, const std::function<void(CaptureTimes)>& captured, bool& clean) {
  Capture capture(domain, events, mode, sink, captured);
  const Status done = capture.run(new_layer);
  clean = capture.clean();
  return done;
}

}  // namespace stillpoint::node
