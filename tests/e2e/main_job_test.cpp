// The main job: two checkpoints, a host dies, the job goes on elsewhere and ends as if nothing had happened.
#include <doctest/doctest.h>

#include <algorithm>

#include "common/file.h"
#include "tests/e2e/examples.h"

using namespace stillpoint;
using namespace stillpoint::e2e;

TEST_CASE("a job whose host dies ends with the same answer from its last checkpoint") {
  TestLab lab("main", 3);
  const Heat heat = Heat::long_enough_on(lab);
  std::string expected_picture;
  const std::string undisturbed =
      run_natively(4, example("heat/heat"), heat.arguments(),
                   [&](const fs::path& directory) { expected_picture = read_file(directory / kHeatPicture).value(); });
  REQUIRE(lines_starting(undisturbed, kHeatLine).size() == heat.steps / heat.every);

  const std::string job = lab.submit(heat.job("heat"));
  lab.wait_for_lines(job, kHeatLine, 3);
  const json first = lab.ok({"checkpoint", job});
  const auto printed = lines_starting(lab.logs(job), kHeatLine).size();
  lab.wait_for_lines(job, kHeatLine, printed + 3);
  const json second = lab.ok({"checkpoint", job});
  CHECK(second.at("epoch").get<int>() > first.at("epoch").get<int>());
  lab.wait_for_lines(job, kHeatLine, lines_starting(lab.logs(job), kHeatLine).size() + 3);

  const auto before = lab.hosts_of(job);
  REQUIRE(before.size() == 2);
  const std::string victim = before[1];
  lab.lab({"kill-host", victim});
  const json restarted = lab.ok({"restart", job});
  CHECK(restarted.at("epoch") == second.at("epoch"));
  CHECK(restarted.at("incarnation") == 2);
  const auto after = lab.hosts_of(job);
  CHECK(std::find(after.begin(), after.end(), victim) == after.end());

  const auto end = lab.run({"wait", job, "--timeout", "600"}, 610s);
  CHECK_MESSAGE(end.exit_code == 0, end.out << end.err);
  const json status = lab.status(job);
  CHECK(status.at("state") == "completed");
  CHECK(status.at("exitCode") == 0);
  CHECK(status.at("restarts") == 1);

  const std::string logs = lab.logs(job);
  CHECK(check_numbered(logs, kHeatLine, heat.every, heat.every) == heat.steps / heat.every);
  CHECK(printed_by_program(logs) == undisturbed);
  CHECK(read_file(lab.scratch() / "heat" / kHeatPicture).value() == expected_picture);

  // What the dead host stored goes with the job, too.
  CHECK_FALSE(packs_of(lab).empty());
  lab.ok({"rm", job});
  CHECK(packs_of(lab).empty());
}
