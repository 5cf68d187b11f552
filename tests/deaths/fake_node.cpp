// The node daemon with a fake hypervisor, and with the points at which it dies or stops (death_points.h).
//   fake-node NAME ADDRESS SITE IDENTITY COORDINATOR
// SITE: the directory that all hosts reach. Takes commands on its standard input, a line each, and answers each by one:
//   version JOB N       the job's machines here have memory of version N
//   list                what runs here (FakeMachines::list)
// Its standard input's end is its own.
#include <sys/sysinfo.h>

#include <csignal>
#include <iostream>
#include <sstream>
#include <thread>

#include "common/log.h"
#include "node-daemon/shell/daemon.h"
#include "node-daemon/store/chunk_image_store.h"
#include "tests/deaths/death_points.h"
#include "tests/deaths/fake_machines.h"

namespace {

using namespace stillpoint;
using namespace stillpoint::node;

template <class T>
T must(Result<T> result) {
  if (result) return std::move(*result);
  std::cerr << result.error() << std::endl;
  std::exit(1);
}

std::string answer(test::FakeMachines& machines, const std::string& line) {
  std::istringstream in(line);
  std::string what, job;
  std::uint64_t version = 0;
  in >> what >> job >> version;
  if (what == "version") machines.set_version(JobId{job}, version);
  return what == "list" ? machines.list() : "done";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  const std::string name = argv[1], address = argv[2];
  const std::filesystem::path site = argv[3];
  test::read_death_points(false);
  std::signal(SIGPIPE, SIG_IGN);
  set_log_level("warn");
  DaemonParts parts;
  parts.tls = must(net::TlsContext::load(argv[4], net::TlsRole::host));
  parts.state = std::make_unique<StateDirectory>(must(StateDirectory::open(site / name / "state")));
  auto store = must(open_chunk_image_store(site / "images", {name}, site / "store.keys"));
  parts.settings.store_id = store->id();
  parts.store = std::move(store);
  parts.networks = std::make_unique<GangNetworks>(address);
  auto driver = std::make_unique<test::FakeMachines>(site / name / "machines", site / "journal");
  test::FakeMachines& machines = *driver;
  parts.settings.name = {name};
  parts.settings.address = address;
  parts.settings.probe = driver->probe();
  parts.settings.cpus = 2;
  parts.settings.memory_bytes = std::uint64_t{1} << 30;
  parts.settings.pid = static_cast<std::uint32_t>(::getpid());
  parts.settings.first_request =
      static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch() / std::chrono::milliseconds(1))
      << 20;
  parts.driver = std::move(driver);
  parts.guest_image = site / "guest";
  parts.coordinator = argv[5];
  parts.store_reserve = 1;
  Daemon daemon(std::move(parts));
  std::jthread commands([&] {
    for (std::string line; std::getline(std::cin, line);) std::cout << answer(machines, line) << std::endl;
    daemon.stop();
  });
  const Status done = daemon.run();
  if (!done) std::cerr << done.error() << std::endl;
  return done ? 0 : 1;
}
