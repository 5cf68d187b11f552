// A node daemon in a process of its own that dies where it is told to: the real one but for libvirt and the agents.
//   node-daemon-life SITE IDENTITY COORDINATOR RECORD [STEP OCCURRENCE before|half_way|after]
// RECORD: file for its steps, or "-". Takes commands on its standard input, a line each, and answers each by one:
//   agent INCARNATION               guest 0 of that incarnation gets an agent as soon as its link is opened
//   memory INCARNATION VERSION      the guest's memory becomes test::memory_at(VERSION)
//   compare INCARNATION VERSION     "same" if that is what the guest has
// Its standard input's end is its own.
#include "node-daemon/shell/daemon_life.h"

#include <cstdlib>
#include <iostream>
#include <sstream>
#include <thread>

#include "node-daemon/shell/daemon.h"
#include "node-daemon/shell/file_deaths.h"
#include "node-daemon/shell/test_agent.h"
#include "node-daemon/store/chunk_image_store.h"

namespace stillpoint::node {
namespace {

template <class T>
T must(Result<T> result) {
  if (result) return std::move(*result);
  std::cerr << result.error() << std::endl;
  std::exit(1);
}

std::string answer(FakeDriver& driver, std::vector<std::unique_ptr<TestAgent>>& agents, const std::string& line) {
  std::istringstream in(line);
  std::string what;
  std::uint64_t incarnation = 0, version = 0;
  in >> what >> incarnation >> version;
  const DomainId id{{"j1"}, {incarnation}, {0}};
  if (what == "agent") agents.push_back(std::make_unique<TestAgent>(driver, id));
  if (what == "memory") driver.set_memory(id, test::memory_at(version));
  if (what != "compare") return "done";
  const auto domain = driver.domain(id);
  return domain && test::same_machine(domain->memory, test::memory_at(version)) ? "same" : "different";
}

int run(const std::vector<std::string>& arguments) {
  const std::filesystem::path site = arguments[0];
  test::FileDeath death;
  if (arguments.size() > 4) {
    using When = test::FileDeath::When;
    const std::string& when = arguments[6];
    death = {arguments[4], std::stoi(arguments[5]),
             when == "before"     ? When::before
             : when == "half_way" ? When::half_way
                                  : When::after};
  }
  test::watch_files(site, arguments[3] == "-" ? "" : arguments[3], death);
  DaemonParts parts;
  parts.tls = must(net::TlsContext::load(arguments[1], net::TlsRole::host));
  parts.state = std::make_unique<StateDirectory>(must(StateDirectory::open(site / "state")));
  parts.store = must(open_chunk_image_store(site / "images", {"h1"}, site / "store.keys"));
  parts.networks = std::make_unique<GangNetworks>("192.0.2.1");
  auto fake = std::make_unique<FakeDriver>();
  FakeDriver& driver = *fake;
  parts.driver = std::move(fake);
  parts.settings.name = {"h1"};
  parts.settings.address = "192.0.2.1";
  parts.settings.probe = driver.probe();
  parts.settings.first_request = static_cast<std::uint64_t>(::getpid()) * 1000;
  parts.guest_image = site / "guest";
  parts.coordinator = arguments[2];
  Daemon daemon(std::move(parts));
  std::vector<std::unique_ptr<TestAgent>> agents;
  std::jthread commands([&] {
    for (std::string line; std::getline(std::cin, line);) std::cout << answer(driver, agents, line) << std::endl;
    daemon.stop();
  });
  const Status done = daemon.run();
  if (!done) std::cerr << done.error() << std::endl;
  return done ? 0 : 1;
}

}  // namespace
}  // namespace stillpoint::node

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.size() != 4 && arguments.size() != 7) return 2;
  return stillpoint::node::run(arguments);
}
