// The whole daemon but for libvirt: core, workers, disks, store, network, TLS session, guest links, against the fake
// driver, with a coordinator and agents that the test plays. In a network namespace of its own.
#include "node-daemon/shell/daemon.h"

#include <doctest/doctest.h>

#include <condition_variable>
#include <fstream>
#include <thread>

#include "node-daemon/shell/test_agent.h"
#include "node-daemon/shell/test_site.h"
#include "node-daemon/store/chunk_image_store.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

// A store that hangs, as a network file system may whose server is gone: no write ends before go_on().
class HangingStore final : public ImageStore {
 public:
  struct Switch {
    void go_on() {
      const std::lock_guard lock(mutex);
      hangs = false;
      changed.notify_all();
    }
    bool wait_hanging() {
      std::unique_lock lock(mutex);
      return changed.wait_for(lock, seconds(20), [this] { return waiting > 0; });
    }
    Status write() {
      std::unique_lock lock(mutex);
      ++waiting;
      changed.notify_all();
      changed.wait(lock, [this] { return !hangs; });
      return Error{ErrorKind::transient, "write", "images", "the server is gone"};
    }
    std::mutex mutex;
    std::condition_variable changed;
    bool hangs = true;
    int waiting = 0;
  };
  explicit HangingStore(std::shared_ptr<Switch> at) : switch_(std::move(at)) {}

  Result<std::unique_ptr<ImageWriter>> begin(const ImageName&, std::stop_token) override {
    struct Writer final : ImageWriter {
      explicit Writer(std::shared_ptr<Switch> at) : at_(std::move(at)) {}
      Status write(std::string_view) override { return at_->write(); }
      Result<wire::ImageFile> commit() override { return at_->write().error(); }
      std::shared_ptr<Switch> at_;
    };
    return std::make_unique<Writer>(switch_);
  }
  Status replicate(wire::GuestImage&, const wire::Durability&, std::stop_token) override { return {}; }
  Result<std::unique_ptr<ImageReader>> open(const wire::ImageFile&, const std::vector<wire::StorePeer>&) override {
    return Error{ErrorKind::not_found, "open image", "", "there is none"};
  }
  Result<ImageCheck> verify(const wire::ImageFile&, const std::vector<wire::StorePeer>&,
                            const std::stop_token&) override {
    return switch_->write().error();
  }
  Status remove(const JobId&, const std::vector<Epoch>&, Reach, const std::vector<HostName>&) override { return {}; }
  Result<ImageCheck> verify_in_object_store(const wire::ImageFile& file, const std::vector<wire::StorePeer>&,
                                            const std::stop_token&) override {
    return Error{ErrorKind::transient, "verify image", file.path(), "no S3 store"};
  }
  void tidy() override {}
  void tidy_object_store() override {}
  void stop_freeing() override {}
  Result<std::uint64_t> free_bytes() override { return 1u << 30; }
  Result<std::uint64_t> total_bytes() override { return 2u << 30; }
  Use use() override { return {}; }
  Result<wire::HeldImages> held() override { return wire::HeldImages{}; }
  Status keep_record(const JobId&, Epoch, const wire::KeepRecord&, std::stop_token) override { return {}; }
  Result<wire::Records> records(const wire::ReadRecords&) override { return wire::Records{}; }

 private:
  std::shared_ptr<Switch> switch_;
};

// A daemon in a thread of its own. Its driver is the daemon's property; the test looks at it while the daemon lives.
struct Running {
  FakeDriver* driver = nullptr;
  std::unique_ptr<Daemon> daemon;
  std::thread thread;

  Running(Site& site, std::uint64_t first_request, const std::vector<DomainSpec>& left = {},
          std::unique_ptr<ImageStore> images = nullptr) {
    DaemonParts parts;
    auto tls = net::TlsContext::load(site.identity, net::TlsRole::host);
    REQUIRE_MESSAGE(tls.has_value(), tls.error());
    parts.tls = *tls;
    auto state = StateDirectory::open(site.path / "state");
    REQUIRE_MESSAGE(state.has_value(), state.error());
    parts.state = std::make_unique<StateDirectory>(std::move(*state));
    if (!images) {
      auto store = open_chunk_image_store(site.path / "images", {"h1"}, site.path / "store.keys");
      REQUIRE_MESSAGE(store.has_value(), store.error());
      images = std::move(*store);
    }
    parts.store = std::move(images);
    parts.networks = std::make_unique<GangNetworks>("192.0.2.1");
    auto fake = std::make_unique<FakeDriver>();
    for (const auto& spec : left) fake->add_running(spec);
    driver = fake.get();
    parts.driver = std::move(fake);
    parts.settings.name = {"h1"};
    parts.settings.address = "192.0.2.1";
    parts.settings.probe = driver->probe();
    parts.settings.first_request = first_request;
    parts.guest_image = site.path / "guest";
    parts.coordinator = site.coordinator.endpoint();
    daemon = std::make_unique<Daemon>(std::move(parts));
    thread = std::thread([this] { CHECK(daemon->run().has_value()); });
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;
  ~Running() {
    daemon->stop();
    thread.join();
  }
};

void start_gang(Site& site, FakeDriver& driver, std::vector<std::unique_ptr<TestAgent>>& agents) {
  auto start = about(1);
  fill(*start.mutable_start_guests()->mutable_network(), 7);
  fill(*start.mutable_start_guests()->mutable_hardware());
  start.mutable_start_guests()->set_workdir("/job");
  for (std::uint32_t g = 0; g < 2; ++g) {
    start.mutable_start_guests()->add_guests(g);
    agents.push_back(std::make_unique<TestAgent>(driver, guest(1, g)));
  }
  const auto started = site.coordinator.ask(start);
  REQUIRE_MESSAGE(started.has_guests_started(), started.failure().cause());
  CHECK(started.guests_started().boot_ids(1) == "boot-1");
}

TEST_CASE("start, checkpoint, destroy, restore: through disks, store, network, TLS and guest links") {
  Site site;
  Running node(site, 1);
  auto& coordinator = site.coordinator;
  coordinator.welcome();
  std::vector<std::unique_ptr<TestAgent>> agents;
  start_gang(site, *node.driver, agents);
  CHECK(run_checked({"ip", "link", "show", "spb7"}).has_value());
  for (std::uint64_t g : {0, 1}) node.driver->set_memory(guest(1, g), "memory of guest " + std::to_string(g));

  auto freeze = about(1, 5);
  freeze.mutable_freeze();
  CHECK(coordinator.ask(freeze).cut().guests_size() == 2);
  auto prepare = about(1, 5), capture = prepare;
  prepare.mutable_prepare_capture();
  REQUIRE(coordinator.ask(prepare).has_done());
  capture.mutable_capture();
  const auto captured = coordinator.ask(capture);
  REQUIRE_MESSAGE(captured.has_capture(), captured.failure().cause());
  auto release = about(1, 5);
  release.mutable_release();
  CHECK(coordinator.ask(release).release().held());
  const auto stored = coordinator.wait([](const auto& m) { return m.has_images(); });
  CHECK(stored.epoch() == 5);
  REQUIRE_MESSAGE(stored.images().images_size() == 2, stored.images().failure().cause());
  CHECK(stored.images().images(1).disk().path() == "h1/j1/e5/guest-1.disk");
  CHECK(fs::exists(site.path / "images/hosts/h1/images/j1/e5/guest-1.disk"));

  auto destroy = about(1);
  destroy.mutable_destroy();
  CHECK(coordinator.ask(destroy).has_done());
  CHECK(!fs::exists(site.path / "state/gangs/j1-1"));
  CHECK(!run_checked({"ip", "link", "show", "spb7"}).has_value());
  CHECK(!node.driver->domain(guest(1, 0)).has_value());

  auto restore = about(2, 5);
  fill(*restore.mutable_restore()->mutable_network(), 8);
  fill(*restore.mutable_restore()->mutable_hardware());
  for (const auto& image : stored.images().images()) *restore.mutable_restore()->add_images() = image;
  for (std::uint64_t g : {0, 1}) agents.push_back(std::make_unique<TestAgent>(*node.driver, guest(2, g)));
  const auto restored = coordinator.ask(restore);
  REQUIRE_MESSAGE(restored.has_done(), restored.failure().cause());
  CHECK(node.driver->domain(guest(2, 1))->memory == "memory of guest 1");
  CHECK(node.driver->domain(guest(2, 1))->paused);
  // The disk is the captured one: a file system of the same identity on a chain of two layers.
  const fs::path base = site.path / "state/gangs/j1-2/guest-1/base.qcow2";
  CHECK(run_checked({"qemu-img", "check", "-q", base.string()}).has_value());
  auto resume = about(2, 5);
  resume.mutable_resume();
  CHECK(coordinator.ask(resume).has_done());
  CHECK(!node.driver->domain(guest(2, 1))->paused);

  CHECK(!fs::is_empty(site.path / "images/hosts/h1/packs"));
  auto remove = about(2);
  remove.mutable_delete_images()->add_epochs(5);
  CHECK(coordinator.ask(remove).has_done());
  CHECK(fs::is_empty(site.path / "images/hosts/h1/images"));
  CHECK(fs::is_empty(site.path / "images/hosts/h1/packs"));
}

TEST_CASE("agents hear with each heartbeat how long the host's lease lasts") {
  Site site;
  Running node(site, 1);
  auto& coordinator = site.coordinator;
  coordinator.welcome();  // with a lease of a minute
  std::vector<std::unique_ptr<TestAgent>> agents;
  start_gang(site, *node.driver, agents);
  for (unsigned heartbeat = 1; heartbeat <= 3; ++heartbeat) {
    wire::ToHost ping;
    ping.mutable_ping()->set_number(heartbeat);
    coordinator.send(ping);
    coordinator.wait([&](const auto& m) { return m.pong().number() == heartbeat; });
    for (const auto& agent : agents) {
      const auto left = agent->wait_for_lease(heartbeat);
      REQUIRE(left.has_value());
      CHECK(*left > 0);
      CHECK(*left <= 60'000);
    }
  }
}

TEST_CASE("an image with a flipped bit is refused as damaged and leaves nothing") {
  Site site;
  Running node(site, 1);
  auto& coordinator = site.coordinator;
  coordinator.welcome();
  std::vector<std::unique_ptr<TestAgent>> agents;
  start_gang(site, *node.driver, agents);
  auto prepare = about(1, 5), capture = prepare;
  prepare.mutable_prepare_capture();
  REQUIRE(coordinator.ask(prepare).has_done());
  capture.mutable_capture();
  REQUIRE(coordinator.ask(capture).has_capture());
  const auto stored = coordinator.wait([](const auto& m) { return m.has_images(); });
  const fs::path image = site.path / "images/hosts/h1/images/j1/e5/guest-0.disk";
  {
    std::fstream file(image, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(100);
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(100);
    file.put(byte);
  }
  auto restore = about(2, 5);
  fill(*restore.mutable_restore()->mutable_network(), 8);
  fill(*restore.mutable_restore()->mutable_hardware());
  for (const auto& i : stored.images().images()) *restore.mutable_restore()->add_images() = i;
  const auto refused = coordinator.ask(restore);
  REQUIRE(refused.has_failure());
  CHECK(refused.failure().kind() == wire::Failure::DAMAGED);
  CHECK(refused.failure().object() == "h1/j1/e5/guest-0.disk");
  auto destroy = about(2);
  destroy.mutable_destroy();
  CHECK(coordinator.ask(destroy).has_done());
  CHECK(fs::is_empty(site.path / "state/gangs"));
}

TEST_CASE("images of a checkpoint are copied further when asked, and not while another one is stored") {
  Site site;
  const auto images = std::make_shared<HangingStore::Switch>();
  wire::ToHost copy = about(1, 5);
  copy.mutable_copy_images()->add_images()->set_guest(1);
  copy.mutable_copy_images()->mutable_durability()->set_level(wire::Durability::SITE);
  Running node(site, 1, {}, std::make_unique<HangingStore>(images));
  site.coordinator.welcome();
  const auto copied = site.coordinator.ask(copy);
  REQUIRE_MESSAGE(copied.has_images_copied(), copied.failure().cause());
  CHECK(copied.images_copied().images(0).guest() == 1);

  std::vector<std::unique_ptr<TestAgent>> agents;
  start_gang(site, *node.driver, agents);
  auto prepare = about(1, 6), capture = prepare;
  prepare.mutable_prepare_capture();
  REQUIRE(site.coordinator.ask(prepare).has_done());
  capture.mutable_capture();
  REQUIRE(site.coordinator.ask(capture).has_capture());
  REQUIRE(images->wait_hanging());
  const auto refused = site.coordinator.ask(copy);
  REQUIRE(refused.has_failure());
  CHECK(refused.failure().kind() == wire::Failure::TRANSIENT);
  images->go_on();
  site.coordinator.wait([](const auto& m) { return m.has_images(); });
}

TEST_CASE("a checkpoint is restored over no other base image than its own") {
  Site site;
  Running node(site, 1);
  auto& coordinator = site.coordinator;
  coordinator.welcome();
  std::vector<std::unique_ptr<TestAgent>> agents;
  start_gang(site, *node.driver, agents);
  auto prepare = about(1, 5), capture = prepare;
  prepare.mutable_prepare_capture();
  REQUIRE(coordinator.ask(prepare).has_done());
  capture.mutable_capture();
  REQUIRE(coordinator.ask(capture).has_capture());
  const auto stored = coordinator.wait([](const auto& m) { return m.has_images(); });
  REQUIRE_MESSAGE(stored.images().images_size() == 2, stored.images().failure().cause());
  CHECK(stored.images().images(0).base_sha256().size() == 32);
  auto destroy = about(1);
  destroy.mutable_destroy();
  REQUIRE(coordinator.ask(destroy).has_done());

  std::ofstream(site.path / "guest/base.squashfs") << "y";  // of the same length
  auto restore = about(2, 5);
  fill(*restore.mutable_restore()->mutable_network(), 8);
  fill(*restore.mutable_restore()->mutable_hardware());
  for (const auto& i : stored.images().images()) *restore.mutable_restore()->add_images() = i;
  const auto refused = coordinator.ask(restore);
  REQUIRE(refused.has_failure());
  CHECK(refused.failure().kind() == wire::Failure::REFUSED);
  CHECK(refused.failure().object() == (site.path / "guest/base.squashfs").string());
  CHECK(refused.failure().cause().find("not the one that the checkpoint was taken over") != std::string::npos);

  std::ofstream(site.path / "guest/base.squashfs") << "x";
  for (std::uint64_t g : {0, 1}) agents.push_back(std::make_unique<TestAgent>(*node.driver, guest(3, g)));
  restore.mutable_gang()->set_incarnation(3);
  fill(*restore.mutable_restore()->mutable_network(), 9);
  const auto restored = coordinator.ask(restore);
  CHECK_MESSAGE(restored.has_done(), restored.failure().cause());
}

TEST_CASE("a user's image that is not there is named") {
  Site site;
  Running node(site, 1);
  site.coordinator.welcome();
  auto start = about(1);
  fill(*start.mutable_start_guests()->mutable_network(), 7);
  fill(*start.mutable_start_guests()->mutable_hardware());
  start.mutable_start_guests()->mutable_hardware()->set_image("/nowhere/image.qcow2");
  start.mutable_start_guests()->add_guests(0);
  const auto refused = site.coordinator.ask(start);
  REQUIRE(refused.has_failure());
  CHECK(refused.failure().kind() == wire::Failure::NOT_FOUND);
  CHECK(refused.failure().object() == "/nowhere/image.qcow2");
}

TEST_CASE("a fence does not wait for an upload that hangs") {
  Site site;
  const auto images = std::make_shared<HangingStore::Switch>();
  Running node(site, 1, {}, std::make_unique<HangingStore>(images));
  site.coordinator.welcome();
  std::vector<std::unique_ptr<TestAgent>> agents;
  start_gang(site, *node.driver, agents);
  auto prepare = about(1, 5), capture = prepare;
  prepare.mutable_prepare_capture();
  REQUIRE(site.coordinator.ask(prepare).has_done());
  capture.mutable_capture();
  REQUIRE(site.coordinator.ask(capture).has_capture());
  REQUIRE(images->wait_hanging());
  auto destroy = about(1);
  destroy.mutable_destroy();
  destroy.set_request(900);
  site.coordinator.send(destroy);
  for (std::uint64_t g : {0, 1}) CHECK(node.driver->wait_gone(guest(1, g), seconds(20)));
  // Its files are still in use: only when the upload has ended is the gang gone as a whole.
  CHECK(fs::exists(site.path / "state/gangs/j1-1/guest-0"));
  images->go_on();
  CHECK(site.coordinator.wait([](const auto& m) { return m.request() == 900; }).has_done());
  CHECK(!fs::exists(site.path / "state/gangs/j1-1"));
}

TEST_CASE("a daemon that starts again takes its machines up and goes on with them") {
  Site site;
  std::vector<DomainSpec> left;
  {
    Running node(site, 1);
    site.coordinator.welcome();
    std::vector<std::unique_ptr<TestAgent>> agents;
    start_gang(site, *node.driver, agents);
    CHECK(!StateDirectory::open(site.path / "state").has_value());  // one daemon at a time
    for (std::uint64_t g : {0, 1}) left.push_back(node.driver->domain(guest(1, g))->spec);
  }
  DomainSpec stranger = left[0];
  stranger.id = {{"j8"}, {1}, {0}};
  left.push_back(stranger);
  Running again(site, 1000, left);
  const auto hello = site.coordinator.welcome();
  REQUIRE(hello.gangs_size() == 1);
  CHECK(hello.gangs(0).guests_size() == 2);
  std::vector<std::unique_ptr<TestAgent>> agents;
  for (std::uint64_t g : {0, 1}) agents.push_back(std::make_unique<TestAgent>(*again.driver, guest(1, g)));
  auto query = about(1);
  query.mutable_query();
  CHECK(site.coordinator.ask(query).has_ranks());
  CHECK(!again.driver->domain(stranger.id).has_value());
}

TEST_CASE("a gang's record that is missing or damaged is told from one that cannot be read just now") {
  Site site;
  auto state = StateDirectory::open(site.path / "state");
  REQUIRE(state.has_value());
  const fs::path gangs = site.path / "state/gangs";
  fs::create_directories(gangs / "j1-1");
  fs::create_directories(gangs / "j2-1");
  std::ofstream(gangs / "j2-1/record") << "rubbish";
  std::vector<fs::path> unreadable;
  auto loaded = state->load_gangs(unreadable);
  REQUIRE_MESSAGE(loaded.has_value(), loaded.error());
  CHECK(loaded->empty());
  CHECK(unreadable.size() == 2);
  fs::create_directories(gangs / "j3-1/record");  // reading it fails with EISDIR, as it may with EIO
  unreadable.clear();
  CHECK(!state->load_gangs(unreadable).has_value());
}

TEST_CASE("a daemon that was away for longer than the lease destroys its machines") {
  Site site;
  std::vector<DomainSpec> left;
  {
    Running node(site, 1);
    site.coordinator.welcome();  // with a lease of a minute
    std::vector<std::unique_ptr<TestAgent>> agents;
    start_gang(site, *node.driver, agents);
    for (std::uint64_t g : {0, 1}) left.push_back(node.driver->domain(guest(1, g))->spec);
  }
  {
    auto state = StateDirectory::open(site.path / "state");
    REQUIRE(state.has_value());
    const auto last = state->load_last_word();
    REQUIRE(last.has_value());
    REQUIRE(last->has_value());
    REQUIRE(state->store_last_word(**last - std::chrono::minutes(2)).has_value());
  }
  Running again(site, 1000, left);
  CHECK(site.coordinator.welcome().gangs_size() == 0);
  for (std::uint64_t g : {0, 1}) CHECK(again.driver->wait_gone(guest(1, g), seconds(20)));
}

}  // namespace
}  // namespace stillpoint::node
