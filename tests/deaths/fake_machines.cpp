#include "tests/deaths/fake_machines.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "common/file.h"
#include "common/framing.h"
#include "node-daemon/store/store_test_data.h"

namespace stillpoint::test {
namespace {

namespace fs = std::filesystem;
using node::DomainId;

constexpr std::uint64_t kVersions = 12, kMostGuests = 16;

std::int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// A stream as QEMU writes it; another one for each version.
std::string memory_of(std::uint64_t version) {
  std::mt19937_64 random(5);
  node::test::TestGuest guest(1);
  for (std::uint64_t i = 0; i < version; ++i) guest.change(random, 20);
  return guest.stream();
}

std::uint64_t version_of(const std::string& memory) {
  for (std::uint64_t version = 0; version < kVersions; ++version)
    if (node::test::same_machine(memory, memory_of(version))) return version;
  return kVersions;
}

void say(const Fd& link, const std::string& message) {
  const std::string frame = encode_frame(message);
  (void)!::write(link.get(), frame.data(), frame.size());
}

}  // namespace

FakeMachines::FakeMachines(fs::path directory, fs::path journal)
    : directory_(std::move(directory)), journal_(std::move(journal)) {
  fs::create_directories(directory_);
  take_up();
}

FakeMachines::~FakeMachines() = default;

fs::path FakeMachines::file_of(const DomainId& id) const {
  return directory_ /
         (id.job.value + "-" + std::to_string(id.incarnation.value) + "-" + std::to_string(id.guest.value));
}

void FakeMachines::take_up() {
  for (const auto& entry : fs::directory_iterator(directory_)) {
    std::string job, incarnation, guest;
    std::istringstream name(entry.path().filename());
    std::getline(name, job, '-');
    std::getline(name, incarnation, '-');
    std::getline(name, guest, '-');
    const DomainId id{JobId{job}, {std::stoull(incarnation)}, {std::stoull(guest)}};
    Machine machine;
    std::ifstream in(entry.path());
    if (!(in >> machine.mac >> machine.disk >> machine.version >> machine.paused >> machine.hold.epoch >>
          machine.hold.lost >> machine.hold.until_ms >> machine.hold.hold_ms))
      continue;  // a temporary file
    node::DomainSpec spec;
    spec.id = id;
    spec.mac = machine.mac;
    spec.disk = machine.disk;
    driver_.add_running(spec);
    driver_.set_memory(id, memory_of(machine.version));
    machines_[id] = machine;
  }
}

void FakeMachines::keep(const DomainId& id) {
  const Machine& m = machines_.at(id);
  std::ostringstream text;
  text << m.mac << ' ' << m.disk << ' ' << m.version << ' ' << m.paused << ' ' << m.hold.epoch << ' ' << m.hold.lost
       << ' ' << m.hold.until_ms << ' ' << m.hold.hold_ms << '\n';
  (void)publish_file(file_of(id), text.str(), 0600);
}

void FakeMachines::note(const DomainId& id, const char* what) {
  const std::string line = std::to_string(now_ms()) + " " + what + " " + to_string(id) + "\n";
  const Fd file(::open(journal_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  (void)!::write(file.get(), line.data(), line.size());
}

void FakeMachines::set_version(const JobId& job, std::uint64_t version) {
  const std::lock_guard lock(mutex_);
  for (auto& [id, machine] : machines_)
    if (id.job == job) {
      machine.version = version;
      driver_.set_memory(id, memory_of(version));
      keep(id);
    }
}

std::string FakeMachines::list() {
  const std::lock_guard lock(mutex_);
  std::string text;
  for (const auto& [id, machine] : machines_)
    text += to_string(id) + " version " + std::to_string(machine.version) + (machine.hold.epoch != 0 ? " held" : "") +
            (machine.paused ? " paused" : "") + ";";
  return text;
}

Status FakeMachines::start(const node::DomainSpec& spec) {
  if (auto started = driver_.start(spec); !started) return started;
  const std::lock_guard lock(mutex_);
  driver_.set_memory(spec.id, memory_of(0));
  machines_[spec.id] = Machine{spec.mac, spec.disk, 0, false, {}};
  keep(spec.id);
  note(spec.id, "begin");
  return {};
}

Status FakeMachines::capture(const DomainId& id, const fs::path& new_layer, node::MemorySink& sink,
                             node::CaptureTurn& turn) {
  auto captured = driver_.capture(id, new_layer, sink, turn);
  if (!captured) return captured;
  const std::lock_guard lock(mutex_);
  if (const auto at = machines_.find(id); at != machines_.end()) {
    at->second.disk = new_layer;
    keep(id);
  }
  return {};
}

Status FakeMachines::restore(const node::DomainSpec& spec, const std::string& xml, node::MemorySource& source) {
  if (auto restored = driver_.restore(spec, xml, source); !restored) return restored;
  const std::lock_guard lock(mutex_);
  machines_[spec.id] = Machine{spec.mac, spec.disk, version_of(driver_.domain(spec.id)->memory), true, {}};
  keep(spec.id);
  return {};
}

Status FakeMachines::resume(const DomainId& id) {
  if (auto resumed = driver_.resume(id); !resumed) return resumed;
  const std::lock_guard lock(mutex_);
  const auto at = machines_.find(id);
  if (at == machines_.end()) return {};
  if (at->second.paused) note(id, "begin");
  at->second.paused = false;
  keep(id);
  return {};
}

// The files of a chain go only when the daemon that knows of them says so.
Status FakeMachines::flatten_disk(const DomainId& id) { return driver_.flatten_disk(id); }

Status FakeMachines::destroy(const DomainId& id) {
  {
    const std::lock_guard lock(mutex_);
    if (machines_.erase(id) != 0) {
      note(id, "end");
      std::error_code ignored;
      fs::remove(file_of(id), ignored);
    }
  }
  return driver_.destroy(id);
}

Result<Fd> FakeMachines::open_guest_link(const DomainId& id) {
  auto link = driver_.open_guest_link(id);
  if (!link) return link;
  const std::lock_guard lock(mutex_);
  agents_.emplace_back([this, id](const std::stop_token& stop) { serve(id, stop); });
  return link;
}

// Nothing: the machine is gone.
std::optional<std::string> FakeMachines::hello(const DomainId& id) {
  const std::lock_guard lock(mutex_);
  const auto at = machines_.find(id);
  if (at == machines_.end()) return std::nullopt;
  Hold& hold = at->second.hold;
  if (hold.epoch != 0 && hold.until_ms != 0 && now_ms() >= hold.until_ms) {
    hold.lost = std::exchange(hold.epoch, 0);
    keep(id);
  }
  wire::FromGuest message;
  auto& hello = *message.mutable_hello();
  hello.set_boot_id("boot-" + std::to_string(id.guest.value));
  hello.set_guest(static_cast<std::uint32_t>(id.guest.value));
  hello.set_phase(hold.epoch != 0 ? wire::GuestHello::HELD : wire::GuestHello::BLANK);
  hello.set_epoch(hold.epoch);
  return message.SerializeAsString();
}

wire::FromGuest FakeMachines::answer(const DomainId& id, const wire::GuestRequest& request) {
  wire::FromGuest message;
  *message.mutable_gang() = request.gang();
  auto& reply = *message.mutable_reply();
  reply.set_id(request.id());
  const std::lock_guard lock(mutex_);
  const auto at = machines_.find(id);
  if (at == machines_.end()) return message;
  Hold& hold = at->second.hold;
  if (request.has_close_gates()) {
    hold = {request.epoch(), 0, 0, request.close_gates().hold_ms()};
  } else if (request.has_adopt()) {
    hold = {request.epoch(), 0, 0, 0};
  } else if (request.has_release_ranks()) {
    reply.mutable_release()->set_held(hold.epoch == request.epoch() && hold.epoch != 0);
    hold = {0, hold.lost, 0, 0};
  } else if (request.epoch() != 0 && request.epoch() == hold.lost) {
    reply.mutable_failure()->set_kind(wire::Failure::DEADLINE);
    reply.mutable_failure()->set_step("hold");
    reply.mutable_failure()->set_cause("the guest had let go by itself");
  }
  if (hold.epoch != 0 && hold.epoch == request.epoch() && hold.hold_ms != 0) hold.until_ms = now_ms() + hold.hold_ms;
  if (request.has_check_links())
    for (std::uint32_t other = 0; other < kMostGuests; ++other)
      if (other != id.guest.value) reply.mutable_links()->add_reached(other);
  keep(id);
  return message;
}

void FakeMachines::serve(const DomainId& id, const std::stop_token& stop) {
  const Fd link = driver_.take_agent_end(id, std::chrono::seconds(20));
  FrameReader reader;
  bool asked = false;
  while (link && !stop.stop_requested()) {
    const auto greeting = hello(id);
    if (!greeting) return;
    if (!asked) say(link, *greeting);
    pollfd poll{link.get(), POLLIN, 0};
    if (::poll(&poll, 1, 50) <= 0) continue;
    char block[65536];
    const ssize_t n = ::read(link.get(), block, sizeof block);
    if (n == 0) return;
    if (n < 0) continue;
    reader.feed(std::string_view(block, static_cast<std::size_t>(n)));
    while (const auto payload = reader.next()) {
      wire::GuestRequest request;
      if (!request.ParseFromString(*payload)) continue;
      asked = true;
      say(link, answer(id, request).SerializeAsString());
      if (!request.has_stop_ranks() || id.guest.value != 0) continue;
      wire::FromGuest ended;
      *ended.mutable_gang() = request.gang();
      ended.mutable_exited()->set_exit_code(143);
      say(link, ended.SerializeAsString());
    }
  }
}

}  // namespace stillpoint::test
