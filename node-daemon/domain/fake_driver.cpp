#include "node-daemon/domain/fake_driver.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>
#include <fstream>

#include "node-daemon/domain/domain_name.h"

namespace stillpoint::node {
namespace {

constexpr const char* kCallNames[] = {"running",  "start",   "capture", "describe", "restore",  "resume",
                                      "carry_on", "flatten", "chain",   "destroy",  "open_link"};
constexpr std::size_t kMaxMemory = 256 << 20;

Status write_layer(const std::filesystem::path& file, const std::string& content) {
  std::ofstream out(file, std::ios::binary);
  out << content;
  out.flush();
  if (!out) return errno_error("make disk layer", file.string(), EIO);
  return {};
}

std::string description(const DomainSpec& spec) {
  return "<domain type='fake'><uuid>" + domain_uuid(spec.id) + "</uuid><mac>" + spec.mac + "</mac></domain>";
}

}  // namespace

FakeDriver::FakeDriver() {
  probe_ = {Accelerator::tcg, "it is a fake", CaptureMode::background_snapshot, "it is a fake", "0.0.0", "0.0.0"};
}

void FakeDriver::set_probe(DriverProbe probe) { probe_ = std::move(probe); }

void FakeDriver::fail(Call call, Error error, int times) {
  const std::lock_guard lock(mutex_);
  auto& failures = scripts_[call].failures;
  failures.insert(failures.begin(), static_cast<std::size_t>(times), error);
}

void FakeDriver::fail_capture_half_way(Error error) {
  const std::lock_guard lock(mutex_);
  half_way_ = std::move(error);
}

void FakeDriver::delay(Call call, std::chrono::milliseconds duration) {
  const std::lock_guard lock(mutex_);
  scripts_[call].delay = duration;
}

void FakeDriver::hold(Call call) {
  const std::lock_guard lock(mutex_);
  scripts_[call].held = true;
}

bool FakeDriver::wait_held(Call call, std::chrono::milliseconds deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, deadline, [&] { return scripts_[call].waiting > 0; });
}

void FakeDriver::release(Call call) {
  const std::lock_guard lock(mutex_);
  scripts_[call].held = false;
  changed_.notify_all();
}

void FakeDriver::set_memory(const DomainId& id, std::string memory) {
  const std::lock_guard lock(mutex_);
  domains_[id].memory = std::move(memory);
}

void FakeDriver::set_pause(double pause_ms) {
  const std::lock_guard lock(mutex_);
  pause_ms_ = pause_ms;
}

void FakeDriver::end(const DomainId& id, DomainEvent::Kind kind, std::string reason) {
  std::function<void(DomainEvent)> handler;
  {
    const std::lock_guard lock(mutex_);
    if (domains_.erase(id) == 0) return;
    agent_ends_.erase(id);
    handler = handler_;
  }
  if (handler) handler({id, kind, std::move(reason)});
}

void FakeDriver::pause(const DomainId& id, std::string reason) {
  std::function<void(DomainEvent)> handler;
  {
    const std::lock_guard lock(mutex_);
    domains_.at(id).paused = true;
    handler = handler_;
  }
  if (handler) handler({id, DomainEvent::Kind::paused, std::move(reason)});
}

void FakeDriver::add_running(const DomainSpec& spec) {
  const std::lock_guard lock(mutex_);
  domains_[spec.id] = Domain{spec, "memory of " + to_string(spec.id), false, {spec.disk}};
}

Fd FakeDriver::take_agent_end(const DomainId& id, std::chrono::milliseconds deadline) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, deadline, [&] { return agent_ends_.contains(id); });
  const auto at = agent_ends_.find(id);
  if (at == agent_ends_.end()) return {};
  Fd end = std::move(at->second);
  agent_ends_.erase(at);
  return end;
}

bool FakeDriver::wait_gone(const DomainId& id, std::chrono::milliseconds deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, deadline, [&] { return !domains_.contains(id); });
}

std::vector<std::string> FakeDriver::calls() const {
  const std::lock_guard lock(mutex_);
  return calls_;
}

std::optional<FakeDriver::Domain> FakeDriver::domain(const DomainId& id) const {
  const std::lock_guard lock(mutex_);
  const auto at = domains_.find(id);
  if (at == domains_.end()) return std::nullopt;
  return at->second;
}

Status FakeDriver::enter(std::unique_lock<std::mutex>& lock, Call call, const DomainId& id) {
  const char* name = kCallNames[static_cast<std::size_t>(call)];
  calls_.push_back(id.job.empty() ? name : std::string(name) + " " + to_string(id));
  Script& script = scripts_[call];
  ++script.waiting;
  changed_.notify_all();
  changed_.wait(lock, [&] { return !script.held; });
  // A scripted duration, not a wait for something: the condition never holds.
  if (script.delay.count() > 0) changed_.wait_for(lock, script.delay, [] { return false; });
  --script.waiting;
  if (script.failures.empty()) return {};
  Error error = std::move(script.failures.back());
  script.failures.pop_back();
  return error;
}

Result<FakeDriver::Domain*> FakeDriver::find(const DomainId& id, const char* step) {
  const auto at = domains_.find(id);
  if (at == domains_.end()) return Error{ErrorKind::not_found, step, to_string(id), "no such domain"};
  return &at->second;
}

void FakeDriver::on_event(std::function<void(DomainEvent)> handler) {
  const std::lock_guard lock(mutex_);
  handler_ = std::move(handler);
}

Result<std::vector<DomainId>> FakeDriver::running() {
  std::unique_lock lock(mutex_);
  if (auto go = enter(lock, Call::running, {}); !go) return go.error();
  std::vector<DomainId> ids;
  for (const auto& [id, domain] : domains_) ids.push_back(id);
  return ids;
}

Status FakeDriver::start(const DomainSpec& spec) {
  std::unique_lock lock(mutex_);
  if (auto go = enter(lock, Call::start, spec.id); !go) return go;
  if (domains_.contains(spec.id)) return Error{ErrorKind::refused, "start", to_string(spec.id), "it runs already"};
  domains_[spec.id] = Domain{spec, "memory of " + to_string(spec.id), false, {spec.disk}};
  return {};
}

Status FakeDriver::capture(const DomainId& id, const std::filesystem::path& new_layer, MemorySink& sink,
                           CaptureTurn& turn) {
  if (auto go = turn.await_instant(); !go) return go;
  std::unique_lock lock(mutex_);
  if (auto go = enter(lock, Call::capture, id); !go) return go;
  auto domain = find(id, "capture");
  if (!domain) return domain.error();
  if ((*domain)->paused) return Error{ErrorKind::refused, "capture", to_string(id), "it does not run"};
  if (auto made = write_layer(new_layer, "layer of " + to_string(id)); !made) return made;
  (*domain)->chain.insert((*domain)->chain.begin(), new_layer);
  const std::string memory = (*domain)->memory;
  const auto half_way = std::exchange(half_way_, std::nullopt);
  const double pause_ms = pause_ms_;
  lock.unlock();  // the caller's code runs from here on
  turn.captured({pause_ms, pause_ms + 1});
  const std::size_t half = memory.size() / 2;
  if (auto written = sink.write(std::string_view(memory).substr(0, half)); !written) return written;
  if (half_way) return *half_way;
  return sink.write(std::string_view(memory).substr(half));
}

Result<std::string> FakeDriver::describe(const DomainId& id) {
  std::unique_lock lock(mutex_);
  if (auto go = enter(lock, Call::describe, id); !go) return go.error();
  auto domain = find(id, "describe");
  if (!domain) return domain.error();
  return description((*domain)->spec);
}

Status FakeDriver::restore(const DomainSpec& spec, const std::string& domain_xml, MemorySource& source) {
  {
    std::unique_lock lock(mutex_);
    if (auto go = enter(lock, Call::restore, spec.id); !go) return go;
    if (domains_.contains(spec.id)) return Error{ErrorKind::refused, "restore", to_string(spec.id), "it runs already"};
    if (domain_xml != description(spec))
      return Error{ErrorKind::refused, "restore", to_string(spec.id), "the image is of another machine"};
  }
  std::string memory;
  for (;;) {
    auto block = source.read();
    if (!block) return block.error();
    if (block->empty()) break;
    if (memory.size() + block->size() > kMaxMemory)
      return Error{ErrorKind::refused, "restore", to_string(spec.id), "too much memory for a fake"};
    memory += *block;
  }
  const std::lock_guard lock(mutex_);
  domains_[spec.id] = Domain{spec, std::move(memory), true, {spec.disk}};
  return {};
}

Status FakeDriver::resume(const DomainId& id) {
  std::unique_lock lock(mutex_);
  if (auto go = enter(lock, Call::resume, id); !go) return go;
  auto domain = find(id, "resume");
  if (!domain) return domain.error();
  (*domain)->paused = false;
  return {};
}

Status FakeDriver::carry_on(const DomainId& id) {
  std::unique_lock lock(mutex_);
  if (auto go = enter(lock, Call::carry_on, id); !go) return go;
  auto domain = find(id, "carry on");
  if (!domain) return domain.error();
  (*domain)->paused = false;
  return {};
}

Status FakeDriver::flatten_disk(const DomainId& id) {
  std::unique_lock lock(mutex_);
  if (auto go = enter(lock, Call::flatten, id); !go) return go;
  auto domain = find(id, "flatten");
  if (!domain) return domain.error();
  auto& chain = (*domain)->chain;
  std::error_code code;
  while (chain.size() > 2) {
    std::filesystem::remove(chain[1], code);
    chain.erase(chain.begin() + 1);
  }
  return {};
}

Result<std::vector<std::filesystem::path>> FakeDriver::disk_chain(const DomainId& id) {
  std::unique_lock lock(mutex_);
  if (auto go = enter(lock, Call::chain, id); !go) return go.error();
  auto domain = find(id, "chain");
  if (!domain) return domain.error();
  return (*domain)->chain;
}

Status FakeDriver::destroy(const DomainId& id) {
  std::unique_lock lock(mutex_);
  if (auto go = enter(lock, Call::destroy, id); !go) return go;
  domains_.erase(id);
  agent_ends_.erase(id);
  changed_.notify_all();
  return {};
}

Result<Fd> FakeDriver::open_guest_link(const DomainId& id) {
  std::unique_lock lock(mutex_);
  if (auto go = enter(lock, Call::open_link, id); !go) return go.error();
  if (auto domain = find(id, "open guest link"); !domain) return domain.error();
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
    return errno_error("open guest link", to_string(id), errno);
  ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
  agent_ends_.insert_or_assign(id, Fd(ends[1]));
  changed_.notify_all();
  return Fd(ends[0]);
}

}  // namespace stillpoint::node
