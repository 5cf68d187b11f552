// Many epochs of a job that keeps changing a small part of its memory and appends to a file: each costs what changed,
// the first, a middle and the last come back on other hosts to the last bit; a damaged one is refused, marked, and
// whole again when it was put right; old ones are pruned, and nothing is left when the job is removed.
#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <map>

#include "tests/e2e/examples.h"

using namespace stillpoint;
using namespace stillpoint::e2e;

namespace {

constexpr int kEpochs = 10;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kMeasuresMemory = false;  // most of it is the sanitizer's
#else
constexpr bool kMeasuresMemory = true;
#endif

std::string host_of(const fs::path& pack) { return pack.parent_path().parent_path().filename(); }

std::vector<std::string> hosts_with_packs(const TestLab& lab) {
  std::vector<std::string> hosts;
  for (const auto& pack : packs_of(lab)) hosts.push_back(host_of(pack));
  std::ranges::sort(hosts);
  hosts.erase(std::unique(hosts.begin(), hosts.end()), hosts.end());
  return hosts;
}

void flip_a_bit(const fs::path& path) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  const auto middle = static_cast<std::streamoff>(fs::file_size(path) / 2);
  file.seekg(middle);
  const char byte = static_cast<char>(file.get() ^ 1);
  file.seekp(middle);
  file.put(byte);
  file.flush();
  REQUIRE(file.good());
}

// Files of the longest disk chain of any guest.
std::size_t longest_chain(const TestLab& lab) {
  std::map<fs::path, std::size_t> files;
  std::error_code changing;  // files come and go meanwhile
  for (fs::recursive_directory_iterator at(lab.directory(), changing), end; !changing && at != end;
       at.increment(changing))
    if (at->path().extension() == ".qcow2" && at->path().filename().string().starts_with("layer-"))
      ++files[at->path().parent_path()];
  std::size_t most = 0;
  for (const auto& [directory, count] : files) most = std::max(most, count);
  return most;
}

}  // namespace

TEST_CASE("epochs that cost what changed, of which any restores") {
  TestLab lab("epochs", 4);
  const Churn churn;
  JobText text = churn.job("churn");
  text.keep = kEpochs + 2;
  const std::string job = lab.submit(text);
  const auto go_on = [&](std::size_t lines) {
    lab.wait_for_lines(job, kChurnLine, lines_starting(lab.logs(job), kChurnLine).size() + lines);
  };
  go_on(2);

  std::vector<json> epochs;
  std::size_t longest = 0;
  for (int i = 0; i < kEpochs; ++i) {
    epochs.push_back(lab.ok({"checkpoint", job}));
    longest = std::max(longest, longest_chain(lab));
    go_on(1);
  }
  // Joined behind the job's back when there are six; a checkpoint or two may be taken before that has been done.
  CHECK(longest >= 5);
  CHECK(longest <= 16);
  const auto stored = [](const json& epoch) { return epoch.at("bytesStored").get<std::uint64_t>(); };
  std::uint64_t later = 0;
  for (int i = 1; i < kEpochs; ++i) later += stored(epochs[static_cast<std::size_t>(i)]);
  MESSAGE("stored for the first: " << stored(epochs[0]) << ", for each of the others: " << later / (kEpochs - 1));
  CHECK(later / (kEpochs - 1) < stored(epochs[0]) / 2);

  auto ran_on = lab.hosts_of(job);
  std::ranges::sort(ran_on);
  CHECK(hosts_with_packs(lab) == ran_on);

  for (const std::size_t which : {kEpochs - 1, 0, kEpochs / 2}) {
    const auto before = lab.hosts_of(job);
    std::string others;
    for (const char* host : {"h1", "h2", "h3", "h4"})
      if (std::ranges::find(before, host) == before.end()) others += (others.empty() ? "" : ",") + std::string(host);
    CAPTURE(which);
    CAPTURE(others);
    const int epoch = epochs[which].at("epoch");
    CHECK(lab.ok({"restart", job, "--from", std::to_string(epoch), "--hosts", others}).at("epoch") == epoch);
    go_on(2);
  }

  // On hosts that had stored nothing before; and then one of them damages what it stored.
  const int last = lab.ok({"checkpoint", job}).at("epoch");
  go_on(1);
  const std::string damages = lab.hosts_of(job).at(1);
  for (const auto& pack : packs_of(lab))
    if (host_of(pack) == damages) flip_a_bit(pack);
  const auto refused = lab.run({"restart", job, "--from", std::to_string(last)});
  CHECK(refused.exit_code == 1);
  CHECK_MESSAGE(json::parse(refused.out).at("error").at("kind") == "damaged", refused.out);
  const int older = epochs[kEpochs / 2].at("epoch");  // what it was restored from
  CHECK(lab.ok({"restart", job}).at("epoch") == older);
  go_on(2);

  const auto state_of = [&](int epoch) {
    for (const auto& one : lab.ok({"checkpoints", job}))
      if (one.at("epoch") == epoch) return one.at("state").get<std::string>();
    return std::string("not there");
  };
  const auto verify = [&](int epoch) {
    const auto outcome = lab.run({"verify", job, std::to_string(epoch)});
    CAPTURE(outcome.out);
    const json check = json::parse(outcome.out).at("epochs").at(0);
    CHECK(outcome.exit_code == (check.at("state") == "ok" ? 0 : 1));
    return check.at("state").get<std::string>();
  };
  CHECK(state_of(last) == "damaged");
  CHECK(verify(last) == "damaged");
  for (const auto& pack : packs_of(lab))
    if (host_of(pack) == damages) flip_a_bit(pack);  // as it was
  CHECK(verify(last) == "ok");
  CHECK(state_of(last) == "committed");

  const json store = lab.ok({"store"});
  MESSAGE("deduplication " << store.at("deduplication") << ", compression " << store.at("compression"));
  CHECK(store.at("deduplication").get<double>() > 2);
  CHECK(store.at("compression").get<double>() > 1);
  CHECK(store.at("jobs").at(0).at("images") == 2 * (kEpochs + 1));

  // What was taken after the one that it came back from is a history that was left: it goes first.
  const json pruned = lab.ok({"prune", job, "--keep", "2"});
  CHECK(pruned.at("kept") == json({epochs[kEpochs / 2 - 1].at("epoch"), older}));
  CHECK(pruned.at("pruned").size() == kEpochs + 1 - 2);
  CHECK(pruned.at("freedBytes") > 0);
  CHECK(verify(older) == "ok");
  go_on(1);

  const std::string logs = lab.logs(job);
  Churn undisturbed = churn;
  undisturbed.steps = static_cast<unsigned>(check_numbered(logs, kChurnLine, 1, 1));
  CHECK(printed_by_program(logs) == run_natively(4, example("churn/churn"), undisturbed.arguments()));

  // Whole daemons; what their stores take with larger machines is store-memory-test's.
  const std::uint64_t memory = lab.most_node_memory();
  MESSAGE("a node daemon had " << memory << " MiB at most");
  CHECK(memory > 0);
  if (kMeasuresMemory) CHECK(memory <= 256);

  lab.ok({"stop", job});
  lab.ok({"rm", job});
  CHECK(packs_of(lab).empty());
}
