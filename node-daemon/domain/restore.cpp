#include "node-daemon/domain/restore.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "common/log.h"
#include "node-daemon/domain/domain_name.h"
#include "node-daemon/domain/migration.h"

namespace stillpoint::node {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr auto kSilence = std::chrono::seconds(60);  // QEMU takes nothing for so long: something is wrong
constexpr auto kEnd = std::chrono::seconds(60);      // from the stream's end to QEMU's verdict
// What may be under way to QEMU, so that feeding it and its loading overlap: the kernel's own 208 KiB make them take
// turns.
constexpr int kUnderWay = 2 << 20;  // which the kernel doubles
constexpr const char* kFdName = "stillpoint-restore";

// Destroys what was begun unless it is kept.
class Unfinished {
 public:
  explicit Unfinished(DomainHandle domain) : domain_(std::move(domain)) {}
  Unfinished(const Unfinished&) = delete;
  Unfinished& operator=(const Unfinished&) = delete;
  ~Unfinished() {
    if (domain_) virDomainDestroy(domain_.get());
  }
  virDomainPtr get() const { return domain_.get(); }
  void keep() { domain_.reset(); }

 private:
  DomainHandle domain_;
};

Error failure(const DomainId& id, ErrorKind kind, std::string cause) {
  return {kind, "restore", to_string(id), std::move(cause)};
}

// All of block into the socket. False: QEMU has closed its end, which shows as an error, never as a signal.
Result<bool> send_all(const DomainId& id, const Fd& socket, std::string_view block) {
  while (!block.empty()) {
    pollfd poll_on{socket.get(), POLLOUT, 0};
    const int ready = ::poll(&poll_on, 1, static_cast<int>(std::chrono::milliseconds(kSilence).count()));
    if (ready == 0) return failure(id, ErrorKind::deadline, "QEMU does not take the memory stream");
    const ssize_t n = ::send(socket.get(), block.data(), block.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0 && (errno == EPIPE || errno == ECONNRESET)) return false;
    if (n < 0) return errno_error("restore", to_string(id), errno);
    block.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

// False: QEMU stopped reading before the end. An error of the source's stays what it is.
Result<bool> feed(const DomainId& id, const Fd& socket, MemorySource& source) {
  for (;;) {
    auto block = source.read();
    if (!block) return block.error();
    if (block->empty()) return true;
    if (auto sent = send_all(id, socket, *block); !sent || !*sent) return sent;
  }
}

// What became of the load. Only QEMU's own words condemn the image: one that died, because memory was short or the
// machine was fenced, says nothing about it, and the image may load the next time.
Status check_end(virDomainPtr domain, EventHub& events, const DomainId& id) {
  const auto end = wait_migration_end(domain, events, Clock::now() + kEnd);
  if (!end && end.error().kind == ErrorKind::deadline) return end.error();
  if (!end) return failure(id, ErrorKind::transient, "QEMU ended while it loaded the machine: " + end.error().cause);
  if (end->status == "completed") return {};
  if (end->error.empty()) return failure(id, ErrorKind::transient, "QEMU's load " + end->status);
  return failure(id, ErrorKind::damaged, "QEMU's load " + end->status + ": " + end->error);
}

Status load(virDomainPtr domain, EventHub& events, const DomainId& id, MemorySource& source) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
    return errno_error("restore", to_string(id), errno);
  Fd ours(ends[0]);
  // Beyond what unprivileged processes may have; a refusal costs only speed.
  (void)::setsockopt(ours.get(), SOL_SOCKET, SO_SNDBUFFORCE, &kUnderWay, sizeof kUnderWay);
  {
    const Fd theirs(ends[1]);
    auto given = monitor_command(domain, {{"execute", "getfd"}, {"arguments", {{"fdname", kFdName}}}}, theirs.get());
    if (!given) return given.error();
  }
  auto begun =
      monitor_command(domain, {{"execute", "migrate-incoming"},
                               {"arguments", {{"uri", std::string("fd:") + kFdName}, {"exit-on-error", false}}}});
  if (!begun) return begun.error();
  const auto fed = feed(id, ours, source);
  if (!fed) return fed.error();
  ours.reset();
  if (auto ended = check_end(domain, events, id); !ended) return ended;
  if (!*fed) return failure(id, ErrorKind::permanent, "QEMU stopped reading the memory stream before its end");
  auto run_state = monitor_command(domain, {{"execute", "query-status"}});
  if (!run_state) return run_state.error();
  if (run_state->value("status", "") != "paused")
    return failure(id, ErrorKind::permanent, "after the load the machine is " + run_state->value("status", "unknown"));
  return {};
}

}  // namespace

Status restore_domain(virConnectPtr connection, EventHub& events, const DomainId& id, const std::string& xml,
                      MemorySource& source) {
  Unfinished domain(DomainHandle(virDomainCreateXML(connection, xml.c_str(), VIR_DOMAIN_START_PAUSED)));
  if (!domain.get()) return libvirt_error("start domain", to_string(id));
  if (auto loaded = load(domain.get(), events, id, source); !loaded) return loaded;
  if (auto set = set_phase(domain.get(), id, DomainPhase::restored); !set) return set;
  domain.keep();
  return {};
}

Status set_phase(virDomainPtr domain, const DomainId& id, DomainPhase phase) {
  if (virDomainSetMetadata(domain, VIR_DOMAIN_METADATA_ELEMENT, metadata_xml(id, phase).c_str(), kMetadataPrefix,
                           kMetadataUri, VIR_DOMAIN_AFFECT_LIVE) < 0)
    return libvirt_error("mark domain", to_string(id));
  return {};
}

Status resume_domain(virDomainPtr domain, const DomainId& id) {
  if (auto set = set_phase(domain, id, DomainPhase::running); !set) return set;
  int state = 0;
  if (virDomainGetState(domain, &state, nullptr, 0) < 0) return libvirt_error("resume", to_string(id));
  // It runs already where a daemon died after this, or its successor let it go on: only the announcement may be
  // missing.
  if (state != VIR_DOMAIN_RUNNING && virDomainResume(domain) < 0) return libvirt_error("resume", to_string(id));
  // QEMU announced the machine's address when the load ended, while nothing listened. Again, now that it runs.
  auto announced = monitor_command(
      domain,
      {{"execute", "announce-self"}, {"arguments", {{"initial", 20}, {"max", 200}, {"rounds", 5}, {"step", 50}}}});
  if (!announced) log_warn("announce-self failed", {{"domain", to_string(id)}, {"cause", announced.error().message()}});
  return {};
}

}  // namespace stillpoint::node
