#include "node-daemon/shell/daemon.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <csignal>
#include <ctime>
#include <fstream>
#include <mutex>

#include "common/log.h"
#include "node-daemon/guest-link/guest_link.h"
#include "node-daemon/network/tap_alarm.h"
#include "node-daemon/shell/guest_work.h"
#include "node-daemon/shell/image_transfers.h"
#include "node-daemon/shell/workers.h"

namespace stillpoint::node {
namespace {

namespace asio = boost::asio;

constexpr std::size_t kThreads = 64;  // more than max_guests: every guest of the host is captured at the same time
constexpr std::chrono::seconds kFiguresEvery{2};
constexpr std::chrono::minutes kTidyEvery{1};

// A lease goes on while the machine is suspended.
Time now_since_boot() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return Time(milliseconds(now.tv_sec * 1000 + now.tv_nsec / 1'000'000));
}

std::uint64_t wall_clock_ns() {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
}

std::uint64_t memory_free_bytes() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  std::uint64_t kib = 0;
  while (file >> key >> kib) {
    if (key == "MemAvailable:") return kib << 10;
    std::getline(file, unit);
  }
  return 0;
}

void stamp(wire::GuestRequest& request) {
  if (request.has_configure()) request.mutable_configure()->set_wall_clock_ns(wall_clock_ns());
  if (request.has_check_links()) request.mutable_check_links()->set_wall_clock_ns(wall_clock_ns());
  if (request.has_release_ranks()) request.mutable_release_ranks()->set_wall_clock_ns(wall_clock_ns());
}

// With less than this free in the file system of the images nothing more is begun.
std::uint64_t default_reserve(std::uint64_t total) { return std::max(std::uint64_t{1} << 30, total / 20); }

std::string key_of(const DomainId& id) { return "guest " + name_of(id); }
std::string key_of(const GangId& id) { return "gang " + to_string(id); }

}  // namespace

struct Daemon::Impl {
  explicit Impl(DaemonParts p)
      : parts(std::move(p)),
        host(parts.settings),
        work(*parts.driver, *parts.store, *parts.networks, *parts.state, parts.guest_image, parts.upload_caps.get()),
        transfers(*parts.store),
        deadline(io),
        figures_timer(io),
        tidy_timer(io),
        tidy_s3_timer(io),
        signals(io, SIGTERM, SIGINT) {}

  Status start();
  HostFigures read_figures();
  void watch_figures();
  void tidy(asio::steady_timer& timer, const std::string& line, const std::function<void()>& job);
  void stop();
  // From any thread: the event reaches the core on its strand.
  void post(Event event) {
    asio::post(io, [this, event = std::move(event)]() mutable { step(std::move(event)); });
  }
  void step(Event event) {
    if (!stopping) carry_out(host.step(std::move(event), now_since_boot()));
  }
  void carry_out(Effects effects);
  void watch_deadline();

  void perform(SendToCoordinator& e) { coordinator->send(e.message); }
  void perform(DropCoordinator& e) { coordinator->drop(e.why); }
  void perform(SendToGuest& e);
  void perform(OpenLink& e);
  void perform(CloseLink& e);
  void perform(PrepareGang& e) {
    on_worker(key_of(gang_of(e.record.gang())), [this, e] { return work.prepare(e); });
  }
  void perform(StoreRecord& e) {
    on_worker(key_of(gang_of(e.record.gang())), [this, e] { return work.store_record(e); });
  }
  void perform(StoreHost& e);
  void perform(StoreLastWord& e);
  void perform(StartGuest& e) {
    on_worker(key_of(e.plan.id), [this, e] { return work.start(e); });
  }
  void perform(RestoreGuest& e) {
    on_worker(key_of(e.plan.id), [this, e] { return work.restore(e); });
  }
  void perform(ResumeGuest& e) {
    on_worker(key_of(e.id), [this, e] { return work.resume(e); });
  }
  void perform(ContinueGuest& e) {
    on_worker(key_of(e.id), [this, e] { return work.carry_on(e); });
  }
  void perform(PrepareCapture& e) {
    on_worker(key_of(e.id), [this, e] { return work.capture(e, [this](Event event) { post(std::move(event)); }); });
  }
  void perform(TakeInstant& e) { work.take_instant(e); }
  void perform(CancelCapture& e) { work.cancel(e); }
  void perform(WatchTaps& e);
  void perform(ReadTaps& e);
  // The kernel waits a grace period for each packet socket that is closed: not here, where the guests stand still.
  void close(TapAlarm alarm) {
    workers->post("close taps", [alarm = std::make_shared<TapAlarm>(std::move(alarm))]() mutable { alarm.reset(); });
  }
  void perform(FlattenDisk& e) {
    on_worker(key_of(e.id), [this, e] { return work.flatten(e); });
  }
  void perform(DestroyGuest& e);
  void perform(RemoveGang& e) {
    if (auto alarm = alarms.extract(e.gang); !alarm.empty()) close(std::move(alarm.mapped()));
    on_worker(key_of(e.gang), [this, e] { return work.remove(e); });
  }
  void perform(DeleteImages& e) {
    on_worker(line_of(e.job), [this, e] {
      transfers.forget(e.job, e.epochs);
      return work.delete_images(e);
    });
  }
  void perform(ListImages&) {
    on_worker("list images", [this] { return work.list_images(); });
  }
  // One line for all: verifications wait for one another, and nobody else for them.
  void perform(VerifyImages& e) {
    on_worker("verify", [this, e] { return work.verify(e); });
  }
  // Pieces go into an image one after the other, and none after its deletion.
  void perform(TransferImage& e) {
    const std::string key = e.ask.has_read_image() ? "read " + e.ask.read_image().file().path() : line_of(e.ask.gang());
    on_worker(key, [this, e = std::move(e)] { return ImageTransferred{e.token, transfers.carry_out(e.ask)}; });
  }
  // A record is not kept after its images were deleted. Reading may take long, and keeps nobody waiting.
  void perform(CarryRecord& e) {
    const std::string key = e.ask.has_read_records() ? "records" : line_of(e.ask.gang());
    on_worker(key, [this, e = std::move(e)] { return work.carry(e); });
  }
  // One line, too: to one place one image at a time is copied anyway.
  void perform(CopyImages& e) {
    on_worker("copy images", [this, e] { return work.copy(e); });
  }
  void perform(Log& e);

  // Of all that is done with a job's images.
  static std::string line_of(const JobId& job) { return "images " + job.value; }
  static std::string line_of(const wire::GangRef& gang) { return line_of(JobId{gang.job()}); }

  template <class Job>
  void on_worker(const std::string& key, Job job) {
    workers->post(key, [this, job = std::move(job)] { post(job()); });
  }

  DaemonParts parts;
  asio::io_context io{1};
  Host host;
  GuestWork work;
  ImageTransfers transfers;
  asio::steady_timer deadline, figures_timer, tidy_timer, tidy_s3_timer;
  asio::signal_set signals;
  std::shared_ptr<CoordinatorLink> coordinator;
  std::map<DomainId, std::shared_ptr<GuestLink>> links;
  std::map<GangId, TapAlarm> alarms;  // at most one hold at a time
  bool stopping = false;
  bool storing_word = false;         // one at a time: a disk that hangs must not be asked for more and more
  std::unique_ptr<Workers> workers;  // last: its threads end before what they use
};

Daemon::Daemon(DaemonParts parts) : impl_(std::make_unique<Impl>(std::move(parts))) {}
Daemon::~Daemon() {
  if (impl_->workers) impl_->work.cancel_all();
  impl_->transfers.stop();
  impl_->workers.reset();
  impl_->parts.driver->on_event(nullptr);
}

void Daemon::stop() {
  asio::post(impl_->io, [this] { impl_->stop(); });
}

Status Daemon::run() {
  if (auto started = impl_->start(); !started) return started;
  impl_->io.run();
  return {};
}

HostFigures Daemon::Impl::read_figures() {
  const auto free = parts.store->free_bytes(), total = parts.store->total_bytes();
  const ImageStore::Use use = parts.store->use();
  HostFigures figures{memory_free_bytes(), free ? *free : 0, {}};
  figures.store.set_packs(use.packs);
  figures.store.set_pack_bytes(use.pack_bytes);
  figures.store.set_pages(use.pages);
  figures.store.set_total_bytes(total ? *total : 0);
  figures.store.set_reserve_bytes(parts.store_reserve.value_or(default_reserve(figures.store.total_bytes())));
  return figures;
}

Status Daemon::Impl::start() {
  parts.driver->on_event([this](const DomainEvent& event) {
    if (event.kind == DomainEvent::Kind::paused) post(DomainStopped{event.id, event.reason});
    else post(DomainEnded{event.id, event.reason});
  });
  HostFindings found;
  auto record = parts.state->load_host();
  if (!record) return record.error();
  found.host = std::move(*record);
  std::vector<std::filesystem::path> unreadable;
  auto gangs = parts.state->load_gangs(unreadable);
  if (!gangs) return gangs.error();
  found.gangs = std::move(*gangs);
  auto last_word = parts.state->load_last_word();
  if (!last_word) return last_word.error();
  if (*last_word) found.last_word = Time(**last_word);
  auto running = parts.driver->running();
  if (!running) return running.error();
  found.running = std::move(*running);
  found.figures = read_figures();

  std::set<std::uint32_t> known;
  for (const auto& gang : found.gangs) known.insert(gang.network().vni());
  if (auto clean = parts.networks->remove_leftovers(known); !clean) return clean;
  for (const auto& directory : unreadable) {
    // No machine may hold these files: whatever runs without a record ends before they go.
    for (const DomainId& id : found.running)
      if (parts.state->gang_directory(gang_of(id)) == directory)
        if (auto gone = parts.driver->destroy(id); !gone) return gone;
    std::error_code failed;
    std::filesystem::remove_all(directory, failed);
  }

  workers = std::make_unique<Workers>(kThreads);
  coordinator =
      CoordinatorLink::make(io.get_executor(), *parts.tls, parts.coordinator,
                            {.connected = [this] { step(Connected{}); },
                             .disconnected = [this] { step(Disconnected{}); },
                             .said = [this](wire::ToHost message) { step(CoordinatorSaid{std::move(message)}); }});
  signals.async_wait([this](const boost::system::error_code& cancelled, int) {
    if (!cancelled) stop();
  });
  carry_out(host.start(std::move(found), now_since_boot()));
  coordinator->start();
  watch_figures();
  tidy(tidy_timer, "tidy images", [this] {
    transfers.expire();
    parts.store->tidy();
  });
  tidy(tidy_s3_timer, "tidy S3 store", [this] { parts.store->tidy_object_store(); });
  log_info("node daemon serves", {{"host", parts.settings.name.value}, {"coordinator", parts.coordinator}});
  return {};
}

void Daemon::Impl::watch_figures() {
  figures_timer.expires_after(kFiguresEvery);
  figures_timer.async_wait([this](const boost::system::error_code& cancelled) {
    if (cancelled || stopping) return;
    workers->post("figures", [this] {
      asio::post(io, [this, figures = read_figures()] {
        step(figures);
        if (!stopping) watch_figures();
      });
    });
  });
}

// Again and again, on a worker: the daemon serves while stores are looked through.
void Daemon::Impl::tidy(asio::steady_timer& timer, const std::string& line, const std::function<void()>& job) {
  workers->post(line, [this, &timer, line, job] {
    job();
    asio::post(io, [this, &timer, line, job] {
      if (stopping) return;
      timer.expires_after(kTidyEvery);
      timer.async_wait([this, &timer, line, job](const boost::system::error_code& cancelled) {
        if (!cancelled && !stopping) tidy(timer, line, job);
      });
    });
  });
}

// Captures under way are given up (their epoch cannot commit without this daemon); guests run on.
void Daemon::Impl::stop() {
  if (std::exchange(stopping, true)) return;
  log_info("node daemon stops", {{"host", parts.settings.name.value}});
  work.cancel_all();
  transfers.stop();
  coordinator->stop();
  for (auto& [id, link] : links) link->close();
  deadline.cancel();
  figures_timer.cancel();
  tidy_timer.cancel();
  tidy_s3_timer.cancel();
  signals.cancel();
}

void Daemon::Impl::carry_out(Effects effects) {
  for (Effect& effect : effects) std::visit([this](auto& e) { perform(e); }, effect);
  watch_deadline();
}

void Daemon::Impl::watch_deadline() {
  const auto next = host.next_deadline();
  if (!next || stopping) {
    deadline.cancel();
    return;
  }
  deadline.expires_after(std::max(milliseconds(0), *next - now_since_boot()));
  deadline.async_wait([this](const boost::system::error_code& cancelled) {
    if (!cancelled) step(Tick{});
  });
}

void Daemon::Impl::perform(SendToGuest& e) {
  if (e.request.has_release_ranks()) work.released(e.id);
  const auto link = links.find(e.id);
  if (link == links.end()) return;
  if (e.stamp_clock) stamp(e.request);
  link->second->send(e.request.SerializeAsString());
}

void Daemon::Impl::perform(OpenLink& e) {
  if (links.contains(e.id)) return;
  const DomainId id = e.id;
  auto connect = [this, id] {
    workers->post(key_of(id), [this, id] {
      // A shared_ptr, because what is posted must be copyable.
      auto opened = std::make_shared<Result<Fd>>(parts.driver->open_guest_link(id));
      asio::post(io, [this, id, opened] {
        const auto found = links.find(id);
        if (found != links.end()) found->second->connected(std::move(*opened));
      });
    });
  };
  auto frame = [this, id](const std::string& payload) {
    wire::FromGuest message;
    if (message.ParseFromString(payload)) step(GuestSaid{id, std::move(message)});
    else log_warn("a guest sent what is no message of this protocol", {{"guest", name_of(id)}});
  };
  auto link = GuestLink::make(io.get_executor(), name_of(id),
                              {.connect = connect, .opened = [this, id] { step(LinkOpened{id}); }, .frame = frame});
  links[id] = link;
  link->start();
}

void Daemon::Impl::perform(CloseLink& e) {
  auto node = links.extract(e.id);
  // The core may be answering a frame of this very link.
  if (!node.empty()) asio::post(io, [link = std::move(node.mapped())] { link->close(); });
}

// A fence must not wait for a capture's upload: the machine is ended on a line of its own, and what is being done with
// it fails. Its files are removed in order. The fence is over, or will never be, before that: the same guest may be
// made again afterwards.
void Daemon::Impl::perform(DestroyGuest& e) {
  auto fence = std::make_shared<std::once_flag>();
  workers->post("fence " + key_of(e.id), [this, fence, id = e.id] { std::call_once(*fence, [&] { work.fence(id); }); });
  on_worker(key_of(e.id), [this, fence, e] {
    std::call_once(*fence, [] {});
    return work.destroy(e);
  });
}

// On the core's thread: a few system calls, and nothing of the hold may come in between.
void Daemon::Impl::perform(WatchTaps& e) {
  auto alarm = TapAlarm::arm(bridge_name(e.vni));
  if (auto old = alarms.extract(e.gang); !old.empty()) close(std::move(old.mapped()));
  if (alarm) alarms.emplace(e.gang, std::move(*alarm));
  else log_warn("the taps are not watched", {{"job", e.gang.job.value}, {"cause", alarm.error().message()}});
}

void Daemon::Impl::perform(ReadTaps& e) {
  TapsRead read{e.gang, e.epoch, 0, {}};
  if (auto alarm = alarms.extract(e.gang); !alarm.empty()) {
    TapTraffic traffic = alarm.mapped().read();
    read.packets = traffic.packets;
    read.first = std::move(traffic.first);
    close(std::move(alarm.mapped()));
  }
  post(std::move(read));
}

void Daemon::Impl::perform(StoreHost& e) {
  on_worker("host record", [this, record = e.record] { return HostStored{parts.state->store_host(record)}; });
}

// What is not stored makes the successor's lease shorter, never longer.
void Daemon::Impl::perform(StoreLastWord& e) {
  if (std::exchange(storing_word, true)) return;
  workers->post("last word", [this, at = e.last_word] {
    const Status stored = parts.state->store_last_word(at.time_since_epoch());
    asio::post(io, [this, stored] {
      storing_word = false;
      if (!stored) log_warn("time of the coordinator's last word not stored", {{"cause", stored.error().message()}});
    });
  });
}

void Daemon::Impl::perform(Log& e) {
  const auto say = e.level == Log::Level::info ? log_info : e.level == Log::Level::warn ? log_warn : log_error;
  say(e.what, {{"host", parts.settings.name.value},
               {"job", e.gang.job.value},
               {"incarnation", e.gang.incarnation.value},
               {"epoch", e.epoch.value},
               {"detail", e.detail}});
}

}  // namespace stillpoint::node
