#include "node-daemon/domain/capture.h"

#include "common/log.h"
#include "node-daemon/domain/capture_stream.h"
#include "node-daemon/domain/disk.h"
#include "node-daemon/domain/migration.h"
#include "node-daemon/domain/pre_copy.h"

namespace stillpoint::node {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kEnd = std::chrono::seconds(20);  // from the stream's end to QEMU's verdict

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

class Capture {
 public:
  Capture(virDomainPtr domain, EventHub& events, CapturePlan plan, const std::filesystem::path& new_layer,
          MemorySink& sink, CaptureTurn& turn)
      : domain_(domain),
        name_(virDomainGetName(domain)),
        events_(events),
        plan_(plan),
        new_layer_(new_layer),
        sink_(sink),
        turn_(turn) {}

  Status run();
  bool clean() const { return clean_; }

 private:
  Status take();
  // transient, and awaited_ not set: it does not suit the machine.
  Status pre_copy();
  Status at_the_instant();
  Status begin(CaptureStream& stream);
  Status drain(CaptureStream& stream);
  Status await();
  Status switch_disk();
  Status check_end();
  Status clean_up();
  void remove_layer_unless_used();
  void report(double pause_ms, const char* way);
  Error error(ErrorKind kind, std::string cause) const { return {kind, "capture", name_, std::move(cause)}; }

  virDomainPtr domain_;
  const std::string name_;
  EventHub& events_;
  const CapturePlan plan_;
  const std::filesystem::path& new_layer_;
  MemorySink& sink_;
  CaptureTurn& turn_;

  Clock::time_point instant_{};  // since when it may come
  bool awaited_ = false;
  bool switched_ = false;
  bool reported_ = false;
  bool clean_ = true;
};

Status Capture::run() {
  int state = 0;
  if (virDomainGetState(domain_, &state, nullptr, 0) < 0) return libvirt_error("capture", name_);
  if (state != VIR_DOMAIN_RUNNING) return error(ErrorKind::refused, "it does not run");
  if (auto made = make_layer(domain_, new_layer_); !made) return made;
  const Status taken = take();
  const Status clean = clean_up();
  if (!taken) remove_layer_unless_used();
  return taken && !clean ? clean : taken;
}

Status Capture::take() {
  if (!plan_.pre_copy) return at_the_instant();
  const Status copied = pre_copy();
  if (copied || copied.error().kind != ErrorKind::transient) return copied;
  log_info("no pre-copy", {{"domain", name_}, {"cause", copied.error().cause}, {"instead", name(plan_.mode)}});
  if (auto cleaned = clean_up(); !cleaned) return cleaned;
  if (!clean_) return error(ErrorKind::transient, "QEMU's migration could not be ended");
  if (auto restarted = sink_.restart(); !restarted) return restarted;
  return at_the_instant();
}

Status Capture::pre_copy() {
  PreCopy copy(domain_, events_, sink_);
  if (auto near = copy.approach(); !near) return near;
  if (auto go = await(); !go) return go;
  if (auto taken = copy.take([this] { return switch_disk(); }); !taken) return taken;
  report(copy.pause_ms(), "pre-copy");
  return check_end();
}

// A background snapshot or a paused save.
Status Capture::at_the_instant() {
  CaptureStream stream(domain_, events_, sink_);
  if (auto set = set_background_snapshot(domain_, plan_.mode == CaptureMode::background_snapshot); !set) return set;
  if (auto set = set_unlimited_bandwidth(domain_); !set) return set;
  if (auto opened = stream.open(plan_.mode == CaptureMode::background_snapshot ? CaptureStream::Writes::pages
                                                                               : CaptureStream::Writes::pieces);
      !opened)
    return opened;
  if (auto go = await(); !go) return go;
  if (auto begun = begin(stream); !begun) return begun;
  if (auto drained = drain(stream); !drained) return drained;
  if (auto ended = check_end(); !ended) return ended;
  if (plan_.mode == CaptureMode::paused_save && virDomainResume(domain_) < 0) return libvirt_error("resume", name_);
  if (!stream.wait_resumed(Clock::now() + kEnd))
    return error(ErrorKind::deadline, "QEMU did not say that the machine goes on");
  report(stream.pause_ms(), name(plan_.mode).data());
  return {};
}

Status Capture::await() {
  if (awaited_) return {};
  if (auto go = turn_.await_instant(); !go) return go;
  awaited_ = true;
  instant_ = Clock::now();
  return {};
}

Status Capture::switch_disk() {
  if (switched_) return {};
  if (auto switched = switch_to_layer(domain_, new_layer_); !switched) return switched;
  switched_ = true;
  return {};
}

Status Capture::begin(CaptureStream& stream) {
  if (plan_.mode == CaptureMode::paused_save && virDomainSuspend(domain_) < 0) return libvirt_error("suspend", name_);
  if (auto switched = switch_disk(); !switched) return switched;
  return stream.begin();
}

// Reads until QEMU closes its end. No monitor command here (monitor.h says why): events tell when the machine stopped
// and went on. A background snapshot resumes it once its state is kept and its memory write-protected.
Status Capture::drain(CaptureStream& stream) {
  for (bool more = true; more;) {
    auto pumped = stream.pump();
    if (!pumped) stream.close();  // before any command: a QEMU that waits for the pipe answers none
    if (!pumped) return pumped.error();
    more = *pumped;
    if (plan_.mode == CaptureMode::background_snapshot && stream.resumed())
      report(stream.pause_ms(), name(plan_.mode).data());
  }
  return {};
}

void Capture::report(double pause_ms, const char* way) {
  if (std::exchange(reported_, true)) return;
  log_debug("captured", {{"domain", name_}, {"way", way}, {"pause_ms", pause_ms}});
  turn_.captured({pause_ms, ms_since(instant_)});
}

Status Capture::check_end() {
  auto end = wait_migration_end(domain_, events_, Clock::now() + kEnd);
  if (!end) return end.error();
  if (end->status == "completed") return {};
  // Once the instant has passed nothing can be done in another way.
  return error(reported_ ? ErrorKind::permanent : ErrorKind::transient,
               "QEMU's migration " + end->status + (end->error.empty() ? "" : ": " + end->error));
}

// The stream's reader is gone by now.
Status Capture::clean_up() {
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

void Capture::remove_layer_unless_used() {
  const auto chain = disk_chain_of(domain_);
  std::error_code code;
  if (chain && chain->front() != new_layer_) std::filesystem::remove(new_layer_, code);
}

}  // namespace

Status capture_domain(virDomainPtr domain, EventHub& events, CapturePlan plan, const std::filesystem::path& new_layer,
                      MemorySink& sink, CaptureTurn& turn, bool& clean) {
  Capture capture(domain, events, plan, new_layer, sink, turn);
  const Status done = capture.run();
  clean = capture.clean();
  return done;
}

}  // namespace stillpoint::node
