// A whole site in processes that can be killed and stopped: the real stillpointd with its catalog, and real node
// daemons on fake machines (fake_machines.h), each in a network namespace of its own, over TLS. All of it ends with the
// object, and with this process. Tests only: failures are doctest's. Any
// thread, but for the constructor; a process is started and ended by one.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/fd.h"
#include "common/net/test_certificates.h"
#include "coordinator/test_support/http_client.h"

namespace stillpoint::test {

// Short, so that a test outlasts them.
struct Times {
  int heartbeat_ms = 100, lease_ms = 4000, hold_ms = 2000;
};

class Child {
 public:
  Child() = default;
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() { end(9); }

  // network: of whose namespace, or -1. input, output: its standard ones, or -1.
  void run(const std::vector<std::string>& argv, const std::map<std::string, std::string>& environment, int network,
           int input, int output, const std::filesystem::path& log);
  bool is_dead();  // then it has been waited for
  bool is_stopped() const;
  void signal(int number) const;
  void end(int number);
  pid_t pid() const { return pid_; }

 private:
  std::atomic<pid_t> pid_ = 0;  // one thread changes it
};

class DeathSite {
 public:
  explicit DeathSite(unsigned hosts, Times times = {});
  ~DeathSite();

  // ---- the coordinator
  void start_coordinator();  // answers when it returns
  Child& coordinator() { return coordinator_; }
  coordinator::HttpClient http() const { return coordinator::HttpClient(path / "coordinator/api.sock"); }
  std::filesystem::path coordinator_orders() const { return path / "coordinator.orders"; }

  // ---- the hosts: h1, h2, …
  void start_node(unsigned index);
  Child& node(unsigned index) { return nodes_.at(index)->process; }
  std::filesystem::path node_orders(unsigned index) const;
  // An answer to a command; nothing when it has died or stands still.
  std::optional<std::string> tell(unsigned index, const std::string& command);
  unsigned hosts() const { return static_cast<unsigned>(nodes_.size()); }

  // ---- what is looked at
  // "j1/2/guest-0 version 1 held": all that runs, of all hosts that answer.
  std::vector<std::string> machines();
  // Two incarnations of one job that ran at the same time, by the machines' journal; empty: none did.
  std::string double_run() const;
  std::set<std::string> files_of(const std::string& job) const;  // that hosts and coordinator have
  std::string logs() const;                                      // the last lines, for a failing test

  std::filesystem::path path;

 private:
  struct Node {
    std::string name, address, identity;
    Child holder, process;  // of its namespaces; the daemon
    Fd network, commands, answers;
  };
  net::TestSite certificates_;
  const Times times_;
  std::string endpoint_, identity_;
  Child coordinator_;
  std::mutex mutex_;  // guards the nodes' pipes
  std::vector<std::unique_ptr<Node>> nodes_;
};

// Orders for a process's death points; replaced as a whole.
void order(const std::filesystem::path& file, const std::string& line);
void no_orders(const std::filesystem::path& file);
// By name, how often.
std::map<std::string, int> recorded_steps(const std::filesystem::path& file);

}  // namespace stillpoint::test
