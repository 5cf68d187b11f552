// Hosts that share no directory: each keeps its own images, with copies at a partner. What a dead host had stored is
// gone with it.
#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "tests/e2e/examples.h"

using namespace stillpoint;
using namespace stillpoint::e2e;

namespace {

// Who has each guest's image of a checkpoint: the host that stored it, then who keeps copies.
std::vector<std::set<std::string>> keepers(const TestLab& lab, const std::string& job, int epoch) {
  std::vector<std::set<std::string>> all;
  for (const json& one : lab.ok({"checkpoints", job})) {
    if (one.at("epoch") != epoch) continue;
    CHECK(one.at("level") == "host-loss");
    for (const json& image : one.at("images")) {
      std::set<std::string> hosts{image.at("host").get<std::string>()};
      for (const json& copy : image.at("copies")) hosts.insert(copy.get<std::string>());
      CHECK(hosts.size() == 2);
      all.push_back(hosts);
    }
  }
  REQUIRE(all.size() == 2);
  return all;
}

std::vector<fs::path> own_packs(const TestLab& lab, const std::string& host) {
  const fs::path directory = lab.lab({"status"}).at("dir").get<std::string>();
  std::vector<fs::path> packs;
  for (const auto& entry : fs::directory_iterator(directory / "hosts" / host / "images/hosts" / host / "packs"))
    packs.push_back(entry.path());
  REQUIRE_FALSE(packs.empty());
  return packs;
}

void flip_a_bit(const fs::path& path) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  const auto middle = static_cast<std::streamoff>(fs::file_size(path) / 2);
  file.seekg(middle);
  const char byte = static_cast<char>(file.get() ^ 1);
  file.seekp(middle);
  file.put(byte);
  REQUIRE(file.flush().good());
}

bool stands(const std::vector<std::set<std::string>>& images, const std::set<std::string>& lost) {
  return std::ranges::all_of(images, [&](const auto& hosts) { return !std::ranges::includes(lost, hosts); });
}

}  // namespace

TEST_CASE("a dead host's images come from its partner; two dead hosts' are said to be lost") {
  TestLab lab("host-loss", 4, {"--own-images"});
  const Churn churn;
  JobText text = churn.job("churn");
  text.comes_back = true;
  text.keep = 10;
  const std::string job = lab.submit(text);
  const auto go_on = [&](std::size_t lines) {
    lab.wait_for_lines(job, kChurnLine, lines_starting(lab.logs(job), kChurnLine).size() + lines);
  };
  go_on(2);
  const int first = lab.ok({"checkpoint", job}).at("epoch");
  const auto of_first = keepers(lab, job, first);
  go_on(1);

  // A bit flips in each pack of one of its hosts: verify puts them right from the partner's copies.
  const std::string victim = lab.hosts_of(job).at(0);
  for (const fs::path& pack : own_packs(lab, victim)) flip_a_bit(pack);
  const json verified = lab.ok({"verify", job});
  CHECK(verified.at("epochs").at(0).at("state") == "ok");
  CHECK_MESSAGE(!verified.at("epochs").at(0).at("mended").empty(), verified.dump(2));
  const json again = lab.ok({"verify", job});
  CHECK(again.at("epochs").at(0).at("mended").empty());

  lab.lab({"kill-host", victim});
  REQUIRE(until(kPatience, [&] { return lab.status(job).at("restarts") == 1 && lab.state(job) == "running"; }));
  CHECK(lab.status(job).at("restoredFrom") == first);
  go_on(2);

  // Each image of the next one is at two of the three that are left. Both hosts of guest 0's die at once.
  const int second = lab.ok({"checkpoint", job}).at("epoch");
  const auto of_second = keepers(lab, job, second);
  go_on(1);
  std::set<std::string> lost{victim};
  for (const std::string& host : of_second[0]) {
    lost.insert(host);
    lab.lab({"kill-host", host});
  }
  const bool older = stands(of_first, lost);
  const std::string said = older ? "checkpoint " + std::to_string(first) + " is taken instead" : "nor can an older one";
  std::string reason;
  CHECK_MESSAGE(until(kPatience,
                      [&] {
                        reason = lab.status(job).at("reason");
                        return reason.find(said) != reason.npos;
                      }),
                reason);
  MESSAGE(reason);
  CHECK(reason.find("checkpoint " + std::to_string(second) + " cannot be had: guest 0's image is on ") != reason.npos);
  if (older) {
    REQUIRE(until(kPatience, [&] { return lab.status(job).at("restarts") == 2 && lab.state(job) == "running"; }));
    go_on(2);
  }

  const std::string logs = lab.logs(job);
  Churn undisturbed = churn;
  undisturbed.steps = static_cast<unsigned>(check_numbered(logs, kChurnLine, 1, 1));
  CHECK(printed_by_program(logs) == run_natively(4, example("churn/churn"), undisturbed.arguments()));
  lab.ok({"stop", job});
}
