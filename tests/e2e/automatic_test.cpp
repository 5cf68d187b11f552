// A host dies and nobody does anything: the job comes back by itself and ends as if nothing had happened.
#include <doctest/doctest.h>

#include <algorithm>

#include "common/file.h"
#include "tests/e2e/examples.h"

using namespace stillpoint;
using namespace stillpoint::e2e;

TEST_CASE("a job whose host dies comes back without a hand") {
  TestLab lab("automatic", 3);
  const Heat heat = Heat::long_enough_on(lab);
  const std::string undisturbed = run_natively(4, example("heat/heat"), heat.arguments());

  JobText text = heat.job("heat");
  text.comes_back = true;
  const std::string job = lab.submit(text);
  lab.wait_for_lines(job, kHeatLine, 3);
  const json checkpoint = lab.ok({"checkpoint", job});
  lab.wait_for_lines(job, kHeatLine, lines_starting(lab.logs(job), kHeatLine).size() + 3);
  const std::string victim = lab.hosts_of(job).at(1);
  lab.lab({"kill-host", victim});

  const auto end = lab.run({"wait", job, "--timeout", "600"}, 610s);
  CHECK_MESSAGE(end.exit_code == 0, end.out << end.err);
  const json status = lab.status(job);
  CHECK(status.at("state") == "completed");
  CHECK(status.at("restarts") == 1);
  CHECK(status.at("automaticRestarts") == 1);
  CHECK(status.at("restoredFrom") == checkpoint.at("epoch"));
  const auto after = lab.hosts_of(job);
  CHECK(std::find(after.begin(), after.end(), victim) == after.end());
  CHECK(lab.logs(job) == undisturbed);
}
