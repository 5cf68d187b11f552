// What the coordinator's core costs for one checkpoint of a large gang: without network, catalog and threads, its hosts
// answer in memory. One guest on each host. Counted is the processor time of Coordinator::step() alone, from the
// request to the first release, to the commit, and until nothing is left to do: each host has its record of the new
// checkpoint, and has deleted its image of the oldest. Prints one JSON document; asserts nothing.
//
//   bench/run control-path-memory, or control-path-memory [--hosts N…] [--rounds N]
#include <CLI/CLI.hpp>
#include <ctime>
#include <optional>

#include "bench/measured.h"
#include "coordinator/core/coordinator.h"

using namespace stillpoint;
using namespace stillpoint::bench;
using namespace stillpoint::coordinator;
using nlohmann::json;

namespace {

constexpr double kWantedSeconds = 1;  // at 16,384 hosts

double cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

HostName host_name(std::uint32_t index) { return {"h" + std::to_string(index)}; }

// What a host answers whose guest does everything at once; nothing to what has no answer.
std::optional<wire::FromHost> answer(const wire::ToHost& asked, std::uint32_t guest) {
  wire::FromHost reply;
  reply.set_request(asked.request());
  *reply.mutable_gang() = asked.gang();
  reply.set_epoch(asked.epoch());
  switch (asked.body_case()) {
    case wire::ToHost::kClose:
    case wire::ToHost::kCount: {
      auto& round = *reply.mutable_round()->add_guests();
      round.set_guest(guest);
      round.mutable_figures();
      return reply;
    }
    case wire::ToHost::kFreeze: reply.mutable_cut()->add_guests()->set_guest(guest); return reply;
    case wire::ToHost::kCapture: reply.mutable_capture()->add_guests()->set_guest(guest); return reply;
    case wire::ToHost::kRelease: reply.mutable_release()->set_held(true); return reply;
    case wire::ToHost::kExamine:
    case wire::ToHost::kPrepareCapture:
    case wire::ToHost::kDeleteImages:
    case wire::ToHost::kKeepRecord: reply.mutable_done(); return reply;
    default: return std::nullopt;
  }
}

wire::FromHost images(const wire::ToHost& asked, std::uint32_t guest) {
  wire::FromHost message;
  *message.mutable_gang() = asked.gang();
  message.set_epoch(asked.epoch());
  auto& image = *message.mutable_images()->add_images();
  image.set_guest(guest);
  for (auto* file : {image.mutable_memory(), image.mutable_disk()}) {
    file->set_path(host_name(guest).value + "/j1/e" + std::to_string(asked.epoch()) + "/guest");
    file->add_copies("dir:1");
    file->set_raw_bytes(1u << 30);
    file->set_stored_bytes(1u << 20);
  }
  return message;
}

class Site {
 public:
  explicit Site(std::uint32_t hosts) : core_(Settings{}, catalog(hosts)), sessions_(hosts) {
    for (std::uint32_t i = 0; i < hosts; ++i) index_[host_name(i)] = i;
    for (std::uint32_t i = 0; i < hosts; ++i) step(connected(i));
    step(OutputDurable{JobId{"j1"}, 0, false});
    run();
  }

  // Processor seconds from the request to the end of all that follows from it; to the first PREPARE, which is not in it,
  // to the first release, to the commit with its records.
  struct Cost {
    double epoch = 0, to_prepare = 0, to_release = 0, to_commit = 0;
    std::uint64_t messages = 0, records = 0;
  };
  Cost checkpoint() {
    cost_ = {};
    prepared_ = released_ = committed_ = false;
    step(CheckpointJob{RequestId{++request_}, JobId{"j1"}, std::nullopt});
    run();
    if (!committed_) fail("the checkpoint was not committed");
    if (cost_.records != sessions_.size()) fail("not every host got its record of the checkpoint");
    return cost_;
  }

 private:
  static CatalogState catalog(std::uint32_t hosts) {
    CatalogState state;
    state.coordinator = "bench";
    state.next_job = 2;
    JobRecord job;
    job.job = JobId{"j1"};
    job.spec.name = "bench";
    job.spec.guests = hosts;
    job.spec.memory_bytes = 1u << 30;
    job.spec.ranks_per_guest.assign(hosts, 1);
    job.spec.keep = 2;
    job.state = JobState::running;
    job.incarnation = Incarnation{1};
    for (std::uint32_t i = 0; i < hosts; ++i) {
      job.placement.push_back({GuestIndex{i}, host_name(i)});
      state.hosts.emplace(host_name(i), HostRecord{host_name(i), "192.0.2.1", false});
    }
    state.jobs.emplace(job.job, std::move(job));
    return state;
  }
  HostConnected connected(std::uint32_t index) {
    wire::HostHello hello;
    hello.set_protocol(1);
    hello.set_host(host_name(index).value);
    hello.set_address("192.0.2.1");
    hello.set_store_id("1");
    hello.set_memory_bytes(8ull << 30);
    hello.set_memory_free_bytes(8ull << 30);
    hello.set_image_free_bytes(1ull << 40);
    auto& presence = *hello.add_gangs();
    presence.mutable_gang()->set_job("j1");
    presence.mutable_gang()->set_incarnation(1);
    presence.add_guests(index);
    sessions_[index] = SessionId{index + 1};
    return {host_name(index), sessions_[index], hello};
  }

  // The time stands still: no deadline, no ping, all is one moment.
  void step(Event event) {
    const double before = cpu_seconds();
    Effects effects = core_.step(std::move(event), Time{}, 1);
    const double took = cpu_seconds() - before;
    cost_.epoch += took;
    if (!released_) cost_.to_release = cost_.epoch;
    if (!committed_) cost_.to_commit = cost_.epoch;
    const bool was_prepared = prepared_;
    for (auto& effect : effects) carry_out(effect);
    if (prepared_ && !was_prepared) cost_.to_prepare = cost_.epoch - took;
  }
  void carry_out(Effect& effect) {
    if (auto* reply = std::get_if<Reply>(&effect)) committed_ = committed_ || reply->answer.has_value();
    const auto* send = std::get_if<Send>(&effect);
    if (send == nullptr) return;
    prepared_ = prepared_ || send->message.has_prepare_capture();
    released_ = released_ || send->message.has_release();
    const auto index = index_.at(send->host);
    cost_.messages += 1;
    cost_.records += send->message.has_keep_record();
    if (auto said = answer(send->message, index)) said_.push_back({send->host, send->session, std::move(*said)});
    if (send->message.has_capture()) said_.push_back({send->host, send->session, images(send->message, index)});
  }
  void run() {
    while (!said_.empty())
      for (auto& one : std::exchange(said_, {})) step(std::move(one));
  }

  Coordinator core_;
  std::vector<SessionId> sessions_;
  std::map<HostName, std::uint32_t> index_;
  std::vector<HostSpoke> said_;
  Cost cost_;
  bool prepared_ = false, released_ = false, committed_ = false;
  std::uint64_t request_ = 0;
};

json measure(std::uint32_t hosts, int rounds) {
  Site site(hosts);
  std::vector<double> epoch, prepare_to_release, to_release, to_commit;
  std::uint64_t messages = 0;
  for (int round = -2; round < rounds; ++round) {  // two are kept: nothing is deleted for the first ones
    const auto cost = site.checkpoint();
    if (round < 0) continue;
    epoch.push_back(cost.epoch);
    prepare_to_release.push_back(cost.to_release - cost.to_prepare);
    to_release.push_back(cost.to_release);
    to_commit.push_back(cost.to_commit);
    messages = cost.messages;
  }
  return {{"hosts", hosts},
          {"epoch_cpu_s", spread(epoch)},
          {"prepare_to_release_cpu_s", spread(prepare_to_release)},
          {"to_release_cpu_s", spread(to_release)},
          {"to_commit_cpu_s", spread(to_commit)},
          {"per_host_us", spread(epoch)["median"].get<double>() * 1e6 / hosts},
          {"messages_to_hosts", messages}};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("What the coordinator's core costs for one checkpoint, in memory.", "control-path-memory");
  std::vector<std::uint32_t> hosts = {64, 1024, 4096, 16384};
  int rounds = 5;
  app.add_option("--hosts", hosts, "Numbers of hosts")->check(CLI::Range(1u, 1u << 20))->capture_default_str();
  app.add_option("--rounds", rounds, "Checkpoints that count")->check(CLI::Range(1, 1000))->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  double load = -1;
  ::getloadavg(&load, 1);
  json sizes = json::array();
  for (const auto count : hosts) sizes.push_back(measure(count, rounds));
  std::cout << json{{"bench", "control-path-memory"},
                    {"load_average", load},
                    {"wanted_s_at_16384", kWantedSeconds},
                    {"sizes", sizes}}
                   .dump(2)
            << "\n";
  return 0;
}
