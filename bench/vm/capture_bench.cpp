// What taking a machine's state costs the machine: its pause, its longest gap and the work that it did not do until
// the image was stored, for Stillpoint's capture (background snapshot into the chunk store), the same store fed by a
// pre-copy migration, and libvirt's external memory snapshots, paused and live; one after the other in each round, on
// the same machine. Prints one JSON document; asserts nothing. Wants root and scripts/guest-image.
//
//   bench/run capture, or capture [--rounds N] [--directory TMPFS] [--memory MIB --touched MIB] [--rates A,B…]
//                                 [--methods background-snapshot,pre-copy,external,external-live]
#include <libvirt/libvirt-qemu.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "bench/vm/guest_work.h"
#include "common/process.h"
#include "node-daemon/domain/capture.h"
#include "node-daemon/domain/domain_name.h"
#include "node-daemon/domain/vm_fixture.h"
#include "node-daemon/store/chunk_image_store.h"

using namespace stillpoint;
using namespace stillpoint::node;
using bench::Clock;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr auto kPaceWindow = std::chrono::seconds(3);
constexpr auto kQuiesce = std::chrono::milliseconds(150);  // of a job, from the first gate to the cut
constexpr CapturePlan kBackground{false, CaptureMode::background_snapshot};
constexpr CapturePlan kPreCopy{true, CaptureMode::background_snapshot};

[[noreturn]] void fail(const std::string& why) { throw std::runtime_error(why); }
template <class T>
T must(Result<T> result) {
  if (!result) fail(result.error().message());
  return std::move(*result);
}
void must(const Status& status) {
  if (!status) fail(status.error().message());
}

struct Options {
  std::size_t rounds = 5;
  std::size_t memory_mib = 1280, touched_mib = 1024;
  fs::path directory = "/dev/shm";
  std::vector<double> rates{5, 200};
  std::vector<std::string> methods{"background-snapshot", "pre-copy", "external", "external-live"};
};

// A second connection to the driver's libvirt, for what the driver does not do; and the pauses that QEMU tells of.
class Observer {
 public:
  Observer(const fs::path& root, DomainId id) : id_(std::move(id)) {
    connection_.reset(virConnectOpen(("qemu:///embed?root=" + root.string()).c_str()));
    if (!connection_) fail(libvirt_error("open", "libvirt").message());
    domain_.reset(virDomainLookupByName(connection_.get(), domain_name(id_).c_str()));
    if (!domain_) fail(libvirt_error("find", "domain").message());
    callback_ =
        virConnectDomainQemuMonitorEventRegister(connection_.get(), domain_.get(), nullptr, on_event, this, nullptr, 0);
    if (callback_ < 0) fail(libvirt_error("listen", "domain").message());
  }
  ~Observer() { virConnectDomainQemuMonitorEventDeregister(connection_.get(), callback_); }
  virDomainPtr domain() const { return domain_.get(); }
  EventHub& events() { return events_; }

  void forget() {
    const std::lock_guard lock(mutex_);
    stopped_ = 0;
    pause_ms_ = 0;
  }
  double pause_ms() {
    const std::lock_guard lock(mutex_);
    return pause_ms_;
  }

 private:
  static void on_event(virConnectPtr, virDomainPtr, const char* event, long long seconds, unsigned micros, const char*,
                       void* self) {
    auto& observer = *static_cast<Observer*>(self);
    observer.events_.publish(domain_name(observer.id_), {event, "", 0, seconds * 1'000'000 + micros});
    const std::lock_guard lock(observer.mutex_);
    const long long at = seconds * 1'000'000 + micros;
    if (event == std::string_view("STOP")) observer.stopped_ = at;
    if (event == std::string_view("RESUME") && observer.stopped_)
      observer.pause_ms_ += static_cast<double>(at - observer.stopped_) / 1000;
  }
  const DomainId id_;
  EventHub events_;
  Connection connection_;
  DomainHandle domain_;
  int callback_ = -1;
  std::mutex mutex_;
  long long stopped_ = 0;
  double pause_ms_ = 0;
};

class Bench {
 public:
  explicit Bench(Options options);
  json run();

 private:
  json round(const std::string& method);
  json stillpoint(CapturePlan plan);
  json external(unsigned flags);
  std::unique_ptr<ImageWriter> writer();
  json stored(ImageWriter& writer);
  void rest();

  const Options options_;
  fs::path scratch_;  // deleted by main()
  test::Machines machines_;
  DomainSpec spec_;
  std::unique_ptr<SiteImageStore> store_;
  std::unique_ptr<bench::GuestWork> guest_;
  std::unique_ptr<Observer> observer_;
  std::uint64_t epoch_ = 0;
};

fs::path guest_files(const fs::path& scratch) {
  const fs::path source = STILLPOINT_SOURCE_DIR "/bench/vm/guest", made = scratch / "guest";
  fs::create_directory(made);
  fs::copy_file(source / "init", made / "init");
  must(run_checked({"gcc", "-static", "-O2", "-o", made / "dirty", source / "dirty.c"}));
  return made;
}

fs::path scratch_of(const Options& options) {
  return options.directory / ("stillpoint-capture-bench-" + std::to_string(::getpid()));
}

Bench::Bench(Options options)
    : options_(std::move(options)),
      scratch_(scratch_of(options_)),
      machines_({}, test::Machines::Open::now, guest_files(scratch_)) {
  if (!machines_.problem().empty()) fail(machines_.problem());
  machines_.make_disk("d.qcow2");
  spec_ = machines_.spec(1, "d.qcow2");
  spec_.memory_bytes = std::uint64_t{options_.memory_mib} << 20;
  ImageStoreOptions own;
  own.own = true;
  store_ = must(open_chunk_image_store(scratch_ / "images", HostName{"h1"}, scratch_ / "keys", own));
}

json Bench::run() {
  must(machines_.driver().start(spec_));
  guest_ = std::make_unique<bench::GuestWork>(must(machines_.driver().open_guest_link(spec_.id)));
  guest_->send("touch " + std::to_string(options_.touched_mib) + "\n");
  if (!guest_->wait_for("touched", std::chrono::seconds(600))) fail("the guest did not touch its memory");
  observer_ = std::make_unique<Observer>(machines_.root(), spec_.id);
  json document = json::array();
  for (const double rate : options_.rates) {
    guest_->send("rate " + std::to_string(rate) + "\n");
    if (!guest_->wait_for("runs", std::chrono::seconds(120))) fail("the guest did not begin to work");
    std::map<std::string, json> results;
    (void)stillpoint(kBackground);  // all of the first image is new, as it is once in a job's life
    for (std::size_t i = 0; i < options_.rounds; ++i)
      for (const std::string& method : options_.methods) results[method].push_back(round(method));
    for (auto& [method, all] : results)
      document.push_back({{"dirtiedMBPerSecond", rate}, {"method", method}, {"rounds", std::move(all)}});
  }
  observer_.reset();
  guest_.reset();
  must(machines_.driver().destroy(spec_.id));
  return document;
}

// The job's usual pace is that of the seconds before; what follows is counted from the request to the stored image.
json Bench::round(const std::string& method) {
  rest();
  observer_->forget();
  const auto begin = Clock::now();
  json result = method == "background-snapshot" ? stillpoint(kBackground)
                : method == "pre-copy"          ? stillpoint(kPreCopy)
                : method == "external"          ? external(0)
                                                : external(VIR_DOMAIN_SNAPSHOT_CREATE_LIVE);
  const auto end = Clock::now();
  const double pace = guest_->pace(begin - kPaceWindow, begin);
  const double seconds = std::chrono::duration<double>(end - begin).count();
  result["seconds"] = seconds;
  result["stepsPerSecondBefore"] = pace;
  result["workLostSeconds"] = seconds - (guest_->steps_at(end) - guest_->steps_at(begin)) / pace;
  result["longestGapMs"] = guest_->longest_gap_ms(begin, end);
  result["pauseMs"] = observer_->pause_ms();
  return result;
}

void Bench::rest() {
  must(machines_.driver().flatten_disk(spec_.id));
  store_->tidy();
  (void)guest_->steps_at(Clock::now() + kPaceWindow);
}

std::unique_ptr<ImageWriter> Bench::writer() {
  return must(store_->begin({JobId{"j1"}, Epoch{epoch_}, GuestIndex{0}, ImageName::Part::memory}, {}));
}

json Bench::stored(ImageWriter& writer) {
  const wire::ImageFile file = must(writer.commit());
  if (epoch_ > 1) must(store_->remove(JobId{"j1"}, {Epoch{epoch_ - 1}}, ImageStore::Reach::own, {}));
  return {{"rawBytes", file.raw_bytes()}, {"storedBytes", file.stored_bytes()}};
}

// As the driver does it, but in one way, without trying another. The instant comes a while after all is prepared, as it
// does when ranks have to come to rest first.
json Bench::stillpoint(CapturePlan plan) {
  class Sink final : public MemorySink {
   public:
    explicit Sink(Bench& bench) : bench_(bench) { (void)restart(); }
    Status write(std::string_view bytes) override { return writer->write(bytes); }
    Status restart() override {
      writer.reset();
      writer = bench_.writer();
      ++begun;
      return {};
    }
    std::unique_ptr<ImageWriter> writer;
    int begun = 0;

   private:
    Bench& bench_;
  };
  class Turn final : public CaptureNow {
   public:
    explicit Turn(json& result) : CaptureNow([&](CaptureTimes t) { result["captureMs"] = t.capture_ms; }) {}
    Status await_instant() override {
      std::this_thread::sleep_for(kQuiesce);
      return {};
    }
  };
  json figures;
  Turn turn(figures);
  ++epoch_;
  Sink sink(*this);
  bool clean = false;
  must(capture_domain(observer_->domain(), observer_->events(), plan,
                      machines_.directory() / ("l" + std::to_string(epoch_)), sink, turn, clean));
  if (!clean) fail("QEMU's migration could not be ended");
  json result = stored(*sink.writer);
  result.update(figures);
  result["anotherWay"] = sink.begun > 1;  // pre-copy did not suit, and a background snapshot was taken
  return result;
}

json Bench::external(unsigned flags) {
  ++epoch_;
  const fs::path memory = scratch_ / "external.memory";
  fs::remove(memory);
  const std::string xml = "<domainsnapshot><memory snapshot='external' file='" + memory.string() +
                          "'/><disks><disk name='vda' snapshot='no'/><disk name='vdb' snapshot='external' type='file'>"
                          "<driver type='qcow2'/><source file='" +
                          (machines_.directory() / ("l" + std::to_string(epoch_))).string() +
                          "'/></disk></disks></domainsnapshot>";
  const std::unique_ptr<virDomainSnapshot, VirFree> snapshot(
      virDomainSnapshotCreateXML(observer_->domain(), xml.c_str(),
                                 VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA | VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC | flags));
  if (!snapshot) fail(libvirt_error("snapshot", "domain").message());
  return {{"rawBytes", fs::file_size(memory)}, {"storedBytes", fs::file_size(memory)}};
}

json summary(const json& results) {
  json document = json::array();
  for (const json& entry : results) {
    json line{{"dirtiedMBPerSecond", entry["dirtiedMBPerSecond"]}, {"method", entry["method"]}};
    for (const char* figure : {"pauseMs", "longestGapMs", "workLostSeconds", "seconds", "storedBytes"}) {
      std::vector<double> values;
      for (const json& round : entry["rounds"]) values.push_back(round[figure]);
      std::ranges::sort(values);
      line[figure] = {{"median", values[values.size() / 2]}, {"min", values.front()}, {"max", values.back()}};
    }
    document.push_back(line);
  }
  return document;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"What a capture costs the machine"};
  app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 1000));
  app.add_option("--directory", options.directory, "where images go; a tmpfs, or its disk is measured too");
  app.add_option("--memory", options.memory_mib, "of the guest, MiB");
  app.add_option("--touched", options.touched_mib, "of it, MiB");
  app.add_option("--rates", options.rates, "MB/s that the guest changes")->delimiter(',');
  app.add_option("--methods", options.methods)->delimiter(',');
  CLI11_PARSE(app, argc, argv);

  const fs::path scratch = scratch_of(options);
  int status = 0;
  try {
    if (const std::string problem = test::enter_own_network(); !problem.empty()) fail(problem);
    fs::create_directories(scratch);
    fs::permissions(scratch, fs::perms::owner_all);
    const json results = Bench(options).run();
    std::cout << json{{"benchmark", "capture"},
                      {"setup", {{"memoryMiB", options.memory_mib}, {"touchedMiB", options.touched_mib}}},
                      {"summary", summary(results)},
                      {"results", results}}
                     .dump(2)
              << "\n";
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    status = 1;
  }
  fs::remove_all(scratch);
  return status;
}
