#include "tests/cluster/cluster.h"

#include <doctest/doctest.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <optional>

#include "common/process.h"
#include "coordinator/core/cut.h"

namespace stillpoint::cluster {
namespace fs = std::filesystem;
namespace {

using Clock = std::chrono::steady_clock;

constexpr milliseconds kShort{20'000};

fs::path build_directory() {
  const char* given = std::getenv("STILLPOINT_BUILD");
  return given != nullptr ? given : STILLPOINT_BINARY_DIR;
}

GuestFiles guest_files() {
  const fs::path build = build_directory();
  const char* sdk = std::getenv("STILLPOINT_SDK");
  GuestFiles files;
  std::error_code missing;
  files.root = fs::canonical(sdk != nullptr && *sdk != '\0' ? fs::path(sdk) : build / "guest/sdk", missing);
  REQUIRE_MESSAGE(!missing, "no guest image: run scripts/build");
  files.programs = {build / "bin/stillpoint-agent", build / "bin/stillpoint-launch",
                    build / "guest-files/libstillpoint-mpi.so"};
  for (const fs::path& program : files.programs)
    REQUIRE_MESSAGE(fs::exists(program), program.string() << " is not built: run scripts/build");
  return files;
}

void ip(const std::string& lines) {
  const auto done = run_checked({"ip", "-batch", "-"}, {.input = lines});
  if (!done) FAIL(done.error().message());
}

// This process and its guests see each other, nobody else sees them: once per process.
void leave_the_machine() {
  static bool done = false;
  if (done) return;
  REQUIRE_MESSAGE(::unshare(CLONE_NEWNS | CLONE_NEWNET) == 0, "namespaces cannot be made: are you root?");
  REQUIRE(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
  // Each guest gets a table of connections of its own, as small as a small machine's; else all share that of this
  // machine, and to read its sockets is to walk through a table that was made for all its memory.
  std::ofstream("/proc/sys/net/ipv4/tcp_child_ehash_entries") << 8192;
  ip(std::string("link set lo up\nlink add switch0 type bridge\naddr add ") + Cluster::kOutsideAddress +
     "/16 dev switch0\nlink set switch0 up\n");
  done = true;
}

// Where cgroups v2 are mounted, alone or beside those of version 1.
fs::path cgroups() {
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    if (line.find(" - cgroup2 ") == line.npos) continue;
    std::size_t at = 0;
    for (int field = 0; field < 4; ++field) at = line.find(' ', at) + 1;
    return line.substr(at, line.find(' ', at) - at);
  }
  FAIL("no cgroup v2 file system is mounted");
  return {};
}

constexpr char kGroupPrefix[] = "stillpoint-cluster-";  // then the process

// Of tests that were killed.
void remove_old_cgroups(const fs::path& all) {
  std::vector<fs::path> old;
  for (const auto& entry : fs::directory_iterator(all))
    if (const std::string name = entry.path().filename();
        name.starts_with(kGroupPrefix) && ::kill(std::atoi(name.c_str() + sizeof kGroupPrefix - 1), 0) != 0)
      old.push_back(entry.path());
  for (const fs::path& path : old) {
    std::error_code gone;
    for (fs::directory_iterator guest(path, gone), end; !gone && guest != end; guest.increment(gone)) {
      ::rmdir((guest->path() / "job").c_str());
      ::rmdir(guest->path().c_str());
    }
    ::rmdir(path.c_str());
  }
}

fs::path own_cgroup() { return cgroups() / (kGroupPrefix + std::to_string(::getpid())); }

}  // namespace

bool image_has(const fs::path& path) { return fs::exists(guest_files().root / path); }

Cluster::Cluster(unsigned guests) : Gang(guests) {
  leave_the_machine();
  const GuestFiles files = guest_files();
  remove_old_cgroups(cgroups());
  static unsigned next_port = 0;  // a cable that was pulled goes some time later, with its namespace
  std::string cables;
  for (unsigned guest = 0; guest < guests; ++guest) {
    auto node = std::make_unique<NamespaceGuest>(files, own_cgroup() / guest_name(guest));
    const std::string& port = ports_.emplace_back("port" + std::to_string(next_port++));
    cables += "link add " + port + " type veth peer name eth0 address " + mac(guest) + " netns " +
              std::to_string(node->agent()) + "\nlink set " + port + " master switch0 up\n";
    guests_[guest] = std::move(node);
  }
  ip(cables);
  for (unsigned guest = 0; guest < guests; ++guest) node(guest).start();
  REQUIRE_MESSAGE(serve_until([&] { return all_said_hello(); }, kShort), problem());
  REQUIRE_MESSAGE(configure(kWorkdir, false), problem());
}

Cluster::~Cluster() {
  guests_.clear();
  ::rmdir(own_cgroup().c_str());
}

void Cluster::cut_off(unsigned guest) { ip("link set " + ports_[guest] + " nomaster\n"); }

void Cluster::join(unsigned guest) { ip("link set " + ports_[guest] + " master switch0\n"); }

std::vector<wire::GuestCut> Cluster::check_links() {
  const auto replies = ask_all(
      [](unsigned) {
        wire::GuestRequest request;
        request.mutable_check_links()->set_deadline_ms(2000);
        return request;
      },
      kShort);
  REQUIRE_MESSAGE(replies.has_value(), problem());
  std::vector<wire::GuestCut> cuts;
  for (const auto& reply : *replies) {
    REQUIRE_MESSAGE(reply.has_links(), reply.failure().cause());
    CHECK(reply.links().unreachable_size() == 0);
    cuts.push_back(reply.links().cut());
  }
  return cuts;
}

std::uint64_t Cluster::in_flight() {
  const auto replies = ask_all(
      [](unsigned) {
        wire::GuestRequest request;
        request.mutable_query_ranks();
        return request;
      },
      kShort);
  REQUIRE_MESSAGE(replies.has_value(), problem());
  std::uint64_t bytes = 0;
  for (const auto& reply : *replies)
    for (const auto& rank : reply.ranks().ranks()) bytes += rank.in_flight();
  return bytes;
}

void Cluster::put_program(const std::string& name) {
  const fs::path path = build_directory() / "tests/cluster" / name;
  std::ifstream in(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  REQUIRE_MESSAGE(!bytes.empty(), path.string() << " is not built: build the target stillpoint-cluster-programs");
  for (unsigned guest = 0; guest < size(); ++guest) REQUIRE_MESSAGE(put_file(guest, name, bytes, 0755), problem());
}

void Cluster::start(const JobText& job) {
  wire::GuestRequest request;
  wire::StartJob& start = *request.mutable_start_job();
  start.mutable_command()->Assign(job.command.begin(), job.command.end());
  start.mutable_env()->insert(job.env.begin(), job.env.end());
  for (unsigned ranks : job.ranks_per_guest) start.add_ranks_per_guest(ranks);
  ranks_per_guest_ = job.ranks_per_guest;
  const auto started = ask(0, request, kShort);
  REQUIRE_MESSAGE(started.has_value(), problem());
  REQUIRE_MESSAGE(!started->has_failure(), started->failure().cause());
}

void Cluster::wait_for_output(const std::string& text, milliseconds deadline) {
  const auto there = [&] { return output().find(text) != std::string::npos || over(); };
  REQUIRE_MESSAGE(serve_until(there, deadline), problem());
  REQUIRE_MESSAGE(!over(), problem());
}

void Cluster::wait_for_end(milliseconds deadline) {
  REQUIRE_MESSAGE(serve_until([&] { return over(); }, deadline), problem());
  REQUIRE_MESSAGE((exited() && exited()->exit_code() == 0), problem());
}

std::string Cluster::problem() {
  std::string text;
  for (unsigned guest = 0; guest < size(); ++guest) {
    wire::GuestRequest request;
    request.mutable_query_ranks();
    const auto reply = ask(guest, request, milliseconds(1000));
    if (!reply) continue;
    for (const wire::RankReport& rank : reply->ranks().ranks())
      text += "guest " + std::to_string(guest) + " rank " + std::to_string(rank.rank()) + ": state " +
              std::to_string(rank.state()) + " " + rank.call() + " for " + std::to_string(rank.since_ms()) + " ms, " +
              std::to_string(rank.calls()) + " calls\n";
  }
  return Gang::problem() + text;
}

namespace {

// One checkpoint on its way: every step asks all guests and says whether to go on.
class Cycle {
 public:
  Cycle(Cluster& gang, const CycleSettings& settings, const std::vector<unsigned>& ranks_per_guest)
      : gang_(gang), settings_(settings), ranks_per_guest_(ranks_per_guest) {}

  CycleResult run() {
    if (!examine()) return result_;
    const auto begin = Clock::now();
    const auto since = [&] { return std::chrono::duration_cast<microseconds>(Clock::now() - begin); };
    if (close()) {
      result_.to_closed = since();
      end_ = Clock::now() + settings_.close;
      while (result_.cuts < settings_.attempts && rounds() && !cut() && result_.cuts < settings_.attempts && thaw()) {}
    }
    result_.to_verified = since();
    if (result_.quiet) hold();
    release();
    if (result_.quiet) result_.quiet = examine();
    return result_;
  }

 private:
  bool examine() {
    return all([](wire::GuestRequest& r, unsigned) { r.mutable_examine_ranks(); });
  }

  // As the coordinator does it: where a rank is inside a call that must finish first, all go on for a while.
  bool close() {
    const auto until = Clock::now() + settings_.close;
    for (auto pause = milliseconds(20);; pause *= 2) {
      if (!try_close()) return false;
      const auto defers =
          std::find_if(replies_.begin(), replies_.end(), [](const auto& reply) { return reply.round().deferring(); });
      if (defers == replies_.end()) return true;
      const std::string why = defers->round().cause();
      if (!all([](wire::GuestRequest& r, unsigned) { r.mutable_reopen_gates(); })) return false;
      if (Clock::now() > until) return fail("calls that must finish first: " + why);
      ++result_.reopened;
      gang_.serve_until([] { return false; }, pause);
    }
  }

  bool try_close() {
    return all([this](wire::GuestRequest& r, unsigned guest) {
      r.mutable_close_gates()->set_deadline_ms(static_cast<std::uint32_t>(settings_.close.count()));
      r.mutable_close_gates()->set_defer_ms(100);
      r.mutable_close_gates()->set_hold_ms(30'000);
      r.mutable_close_gates()->set_expected_ranks(guest < ranks_per_guest_.size() ? ranks_per_guest_[guest] : 0);
    });
  }

  // What the answers to the closing say counts as the first; after a cut that was not quiet, until two are equal; or
  // until there is no use in waiting on.
  bool rounds() {
    const auto enough = Clock::now() + settings_.enough;
    std::map<std::uint32_t, wire::RoundFigures> previous, current;
    if (result_.cuts == 0 && coordinator::at_rest(figures())) return true;
    do {
      if (Clock::now() > end_) return fail("the rounds do not become equal: " + unrest(current));
      previous = std::move(current);
      if (!all([](wire::GuestRequest& r, unsigned) { r.mutable_count_round(); })) return false;
      current = figures();
      ++result_.rounds;
    } while (!(result_.cuts == 0 ? coordinator::at_rest(current) : coordinator::rounds_equal(previous, current)) &&
             (Clock::now() < enough || coordinator::must_finish_first(current)));
    return true;
  }

  std::map<std::uint32_t, wire::RoundFigures> figures() const {
    std::map<std::uint32_t, wire::RoundFigures> round;
    for (std::uint32_t guest = 0; guest < replies_.size(); ++guest) round[guest] = replies_[guest].round();
    return round;
  }

  bool cut() {
    ++result_.cuts;
    if (!freeze()) return false;
    // A guest that froze first has not seen what the last one sent: a second look, now that all stand still.
    auto problems = coordinator::cut_problems(cuts_, gang_.size());
    if (!problems.empty()) {
      if (!freeze()) return false;
      problems = coordinator::cut_problems(cuts_, gang_.size());
    }
    result_.quiet = problems.empty();
    if (!result_.quiet) fail(coordinator::summary(problems));
    else result_.sockets = static_cast<std::size_t>(cuts_[0].sockets_size());
    result_.cut = cuts_;
    return result_.quiet;
  }

  bool freeze() {
    if (!all([this](wire::GuestRequest& r, unsigned) {
          r.mutable_freeze_ranks()->set_settle_ms(static_cast<std::uint32_t>(settings_.settle.count()));
        }))
      return false;
    cuts_.clear();
    for (const auto& reply : replies_) cuts_.push_back(reply.cut());
    return true;
  }

  // What was verified still stands when the last guest would have been captured.
  void hold() {
    const auto before = cuts_;
    gang_.serve_until([] { return false; }, settings_.hold);
    result_.quiet = freeze();
    if (!result_.quiet) return;
    const auto moved = coordinator::cut_differences(before, cuts_);
    CHECK_MESSAGE(moved.empty(), "epoch " << gang_.epoch << ", held: " << coordinator::summary(moved));
  }

  bool thaw() {
    return all([](wire::GuestRequest& r, unsigned) { r.mutable_thaw_ranks(); });
  }

  void release() {
    all([](wire::GuestRequest& r, unsigned) { r.mutable_release_ranks(); });
    for (const auto& reply : replies_)
      if (result_.quiet) CHECK(reply.release().held());
  }

  // The same request to all; false with the first failure noted.
  template <class Fill>
  bool all(Fill fill) {
    auto replies = gang_.ask_all(
        [&](unsigned guest) {
          wire::GuestRequest request;
          fill(request, guest);
          return request;
        },
        settings_.close + kShort);
    REQUIRE_MESSAGE(replies.has_value(), "epoch " << gang_.epoch << ": a guest is silent\n" << gang_.problem());
    replies_ = std::move(*replies);
    for (const auto& reply : replies_)
      if (reply.has_failure()) return fail(reply.failure().step() + ": " + reply.failure().cause());
    return true;
  }

  bool fail(const std::string& why) {
    if (result_.why.empty()) result_.why = why;
    return false;
  }

  static std::string unrest(const std::map<std::uint32_t, wire::RoundFigures>& rounds) {
    std::string text;
    for (const auto& [guest, figures] : rounds) text += "guest " + std::to_string(guest) + " " + words(figures) + "; ";
    return text;
  }

  static std::string words(const wire::RoundFigures& figures) {
    std::string text = (figures.busy() ? "busy, " : "") + std::to_string(figures.in_flight()) + " in flight, acked " +
                       std::to_string(figures.bytes_acked()) + ", received " + std::to_string(figures.bytes_received());
    for (const auto& rank : figures.ranks())
      if (rank.state() == wire::RankReport::UNKNOWN)
        text += ", rank " + std::to_string(rank.rank()) + " does not answer";
      else if (rank.state() == wire::RankReport::STOPPED)
        text += ", rank " + std::to_string(rank.rank()) + " is stopped by a signal";
      else
        text += ", rank " + std::to_string(rank.rank()) + " state " + std::to_string(rank.state()) + " " + rank.call() +
                " (" + std::to_string(rank.calls()) + " calls)";
    return text;
  }

  Cluster& gang_;
  const CycleSettings& settings_;
  const std::vector<unsigned>& ranks_per_guest_;
  Clock::time_point end_;
  std::vector<wire::GuestReply> replies_;
  std::vector<wire::GuestCut> cuts_;
  CycleResult result_;
};

}  // namespace

CycleResult Cluster::cycle(const CycleSettings& settings) {
  ++epoch;
  return Cycle(*this, settings, ranks_per_guest_).run();
}

}  // namespace stillpoint::cluster
