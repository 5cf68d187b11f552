#include "node-daemon/domain/monitor.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace stillpoint::node {
namespace {

constexpr std::size_t kMaxQueuedEvents = 256;

int poll_timeout(std::chrono::steady_clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  return static_cast<int>(std::clamp<std::int64_t>(left.count() + 1, 0, 1 << 30));
}

}  // namespace

Result<nlohmann::json> monitor_command(virDomainPtr domain, const nlohmann::json& command, int fd) {
  const std::string step = "monitor command " + command.value("execute", "?");
  const char* name = virDomainGetName(domain);
  const std::string object = name ? name : "domain";
  char* raw = nullptr;
  int files[1] = {fd};
  const int status = fd < 0 ? virDomainQemuMonitorCommand(domain, command.dump().c_str(), &raw, 0)
                            : virDomainQemuMonitorCommandWithFiles(domain, command.dump().c_str(), 1, files, nullptr,
                                                                   nullptr, &raw, 0);
  const VirString reply(raw);
  if (status < 0) return libvirt_error(step, object);
  auto json = nlohmann::json::parse(reply ? reply.get() : "", nullptr, false);
  if (!json.is_object()) return Error{ErrorKind::permanent, step, object, "QEMU's answer is not JSON"};
  if (const auto error = json.find("error"); error != json.end())
    return Error{ErrorKind::permanent, step, object, error->value("desc", "QEMU refused")};
  return json.value("return", nlohmann::json::object());
}

EventWatch::EventWatch(EventHub& hub, std::string domain)
    : hub_(hub), domain_(std::move(domain)), signal_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  const std::lock_guard lock(hub_.mutex_);
  hub_.watches_.emplace(domain_, this);
}

EventWatch::~EventWatch() {
  const std::lock_guard lock(hub_.mutex_);
  const auto [from, to] = hub_.watches_.equal_range(domain_);
  for (auto it = from; it != to; ++it)
    if (it->second == this) {
      hub_.watches_.erase(it);
      return;
    }
}

std::optional<MonitorEvent> EventWatch::next() {
  const std::lock_guard lock(hub_.mutex_);
  if (queue_.empty()) {
    eventfd_t count = 0;
    ::eventfd_read(signal_.get(), &count);
    return std::nullopt;
  }
  MonitorEvent event = std::move(queue_.front());
  queue_.pop_front();
  return event;
}

std::optional<MonitorEvent> EventWatch::wait(std::chrono::steady_clock::time_point deadline) {
  for (;;) {
    if (auto event = next()) return event;
    if (std::chrono::steady_clock::now() >= deadline) return std::nullopt;
    pollfd poll_on{signal_.get(), POLLIN, 0};
    ::poll(&poll_on, 1, poll_timeout(deadline));
  }
}

void EventHub::publish(const std::string& domain, MonitorEvent event) {
  const std::lock_guard lock(mutex_);
  const auto [from, to] = watches_.equal_range(domain);
  for (auto it = from; it != to; ++it) {
    EventWatch& watch = *it->second;
    if (watch.queue_.size() == kMaxQueuedEvents) watch.queue_.pop_front();
    watch.queue_.push_back(event);
    ::eventfd_write(watch.signal_.get(), 1);
  }
}

}  // namespace stillpoint::node
