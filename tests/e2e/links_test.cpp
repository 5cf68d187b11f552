// What a restart re-establishes. The figures of the cut are stored with the checkpoint: what comes back must have them,
// socket by socket, or nothing of it goes on. The coordinator's own record is changed behind its back, as no command
// can. And the guests' clocks are set before anything of them goes on.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <ctime>

#include "coordinator/catalog/catalog.h"
#include "tests/e2e/examples.h"

using namespace stillpoint;
using namespace stillpoint::e2e;
using coordinator::Catalog;
using coordinator::CatalogState;
using coordinator::EpochRecord;

namespace {

// Its lease must be long enough for that: the job runs on meanwhile.
const std::vector<std::string> kLongLease = {"--lease-ms", "60000"};

// Changes what is stored of one checkpoint, while no coordinator runs.
void change_record(const TestLab& lab, int epoch, const std::function<void(CatalogState&, EpochRecord&)>& change) {
  REQUIRE(::kill(lab.lab({"status"}).at("coordinator").at("pid").get<pid_t>(), SIGKILL) == 0);
  REQUIRE(until(5s, [&] { return lab.lab({"status"}).at("coordinator").at("state") == "dead"; }));
  {
    auto catalog = Catalog::open(lab.catalog()).value();
    CatalogState state = catalog.load().value();
    EpochRecord& record = state.epochs.at(Epoch{static_cast<std::uint64_t>(epoch)});
    change(state, record);
    REQUIRE(catalog.apply({coordinator::PutEpoch{record}}).has_value());
  }
  lab.lab({"start-coordinator"});
  REQUIRE(until(kPatience, [&] {  // it knows of no host before that has spoken
    const json hosts = lab.ok({"hosts"});
    return std::all_of(hosts.begin(), hosts.end(), [](const json& host) { return host.at("state") == "up"; });
  }));
}

std::string address(std::uint32_t ip, std::uint32_t port) {
  return fmt::format("{}.{}.{}.{}:{}", ip >> 24, (ip >> 16) & 255, (ip >> 8) & 255, ip & 255, port);
}

// In a gang of two.
std::string socket_name(const wire::GuestCut& cut, const wire::SocketFigures& socket) {
  return fmt::format("guest {} socket {} -> {} (guest {})", cut.guest(),
                     address(socket.local_ip(), socket.local_port()), address(socket.remote_ip(), socket.remote_port()),
                     1 - cut.guest());
}

wire::GuestCut& cut_of(EpochRecord& record, std::uint32_t guest) {
  for (auto& cut : record.cut)
    if (cut.guest() == guest) return cut;
  FAIL("no figures of guest " << guest);
  return record.cut.front();
}

bool machines_run(const TestLab& lab) {
  const json status = lab.lab({"status"});
  for (const auto& host : status.at("hosts"))
    for (const pid_t pid : host.at("processes").get<std::vector<pid_t>>())
      if (pid != host.at("pid").get<pid_t>()) return true;
  return false;
}

// Refused with these words; the job is not run, and says why. To be asked of a job that runs no more: what it prints
// until the restart takes its machines away would be its own.
void refused(const TestLab& lab, const std::string& job, int epoch, const std::string& words) {
  const std::string printed = lab.logs(job);
  const auto answer = lab.run({"restart", job, "--from", std::to_string(epoch)});
  REQUIRE(answer.exit_code == 1);
  REQUIRE_MESSAGE(answer.err.find(words) != std::string::npos, words << "\n" << answer.err);
  const json status = lab.status(job);
  CHECK(status.at("state") == "failed");
  CHECK_MESSAGE(status.at("reason").get<std::string>().find(words) != std::string::npos, status.dump());
  CHECK(until(kPatience, [&] { return !machines_run(lab); }));
  CHECK(lab.logs(job).starts_with(printed));
  CHECK(last_number(lab.logs(job), kRingLine) == last_number(printed, kRingLine));
}

const std::string kClockLine = "clock ";

JobText with_clock(JobText text) {
  text.files.push_back(test_file("with-clock.sh"));
  text.command = "[./with-clock.sh, " + text.command.substr(1);
  return text;
}

// A guest that goes on by the clock of its checkpoint shows times between that and the restart.
void check_clocks(const TestLab& lab, const std::string& job, std::time_t taken, std::time_t asked) {
  REQUIRE(asked - taken > 5);
  CHECK(until(kPatience, [&] { return last_number(lab.logs(job), kClockLine) >= asked; }));
  const std::time_t now = std::time(nullptr);
  for (const auto& line : lines_starting(lab.logs(job), kClockLine)) {
    const long shown = last_number(line, kClockLine);
    CHECK_MESSAGE((shown <= taken + 1 || shown >= asked - 1),
                  line << ", the checkpoint " << taken << ", asked " << asked);
    CHECK_MESSAGE(shown <= now + 2, line << ", now " << now);
  }
}

}  // namespace

TEST_CASE("a restored socket whose figures are not those stored with the checkpoint is named, and nothing goes on") {
  TestLab lab("links", 2, kLongLease);
  JobText text = with_clock(Ring{}.job("ring"));
  text.keep = 8;
  const std::string job = lab.submit(text);
  const auto more_lines = [&] {
    lab.wait_for_lines(job, kRingLine, lines_starting(lab.logs(job), kRingLine).size() + 2);
  };
  std::vector<int> epochs;
  std::vector<std::time_t> taken;
  for (int i = 0; i < 3; ++i) {
    more_lines();
    epochs.push_back(lab.ok({"checkpoint", job}).at("epoch"));
    taken.push_back(std::time(nullptr));
  }

  // One byte more in what is stored of one socket.
  std::string socket;
  wire::GuestCut stored;
  change_record(lab, epochs[1], [&](CatalogState&, EpochRecord& record) {
    auto& cut = cut_of(record, 1);
    stored = cut;
    REQUIRE(cut.sockets_size() > 0);
    auto& figures = *cut.mutable_sockets(cut.sockets_size() / 2);
    figures.set_bytes_received(figures.bytes_received() + 1);
    socket = fmt::format("{} had {} acknowledged and {} received at the cut, now {} and {}", socket_name(cut, figures),
                         figures.bytes_acked(), figures.bytes_received(), figures.bytes_acked(),
                         figures.bytes_received() - 1);
  });
  lab.ok({"stop", job});
  refused(lab, job, epochs[1], socket);

  // A whole and undamaged image of guest 1, of another moment: its agent itself says so, before sockets are compared.
  change_record(lab, epochs[2], [&](CatalogState& state, EpochRecord& record) {
    const auto& before = state.epochs.at(Epoch{static_cast<std::uint64_t>(epochs[0])}).images;
    for (auto& image : record.images)
      for (const auto& other : before)
        if (image.guest() == 1 && other.guest() == 1) image = other;
  });
  refused(lab, job, epochs[2], fmt::format("the guest is held at epoch {}", epochs[0]));

  // It was nothing but the figure: with what was stored at first, that checkpoint comes back.
  change_record(lab, epochs[1], [&](CatalogState&, EpochRecord& record) { cut_of(record, 1) = stored; });
  const std::time_t asked = std::time(nullptr);
  lab.ok({"restart", job, "--from", std::to_string(epochs[1])});
  more_lines();
  check_clocks(lab, job, taken[1], asked);
  CHECK(check_numbered(lab.logs(job), kRingLine, 1, 1) > 0);
}
