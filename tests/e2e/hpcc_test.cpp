// HPC Challenge, checkpointed and restarted in the middle of its HPL: all its own checks pass.
#include <doctest/doctest.h>

#include "common/file.h"
#include "tests/e2e/examples.h"

using namespace stillpoint;
using namespace stillpoint::e2e;

TEST_CASE("hpcc restarted in the middle of HPL passes its own checks") {
  TestLab lab("hpcc", 2);
  const std::string job = lab.ok({"submit", example("hpcc/hpcc.yaml"), "--directory", lab.scratch()}).at("job");
  lab.wait_for_lines(job, "Begin of HPL section", 1);
  lab.ok({"checkpoint", job});
  CHECK(lines_starting(lab.logs(job), "End of HPL section").empty());
  const json restarted = lab.ok({"restart", job});
  CHECK(restarted.at("incarnation") == 2);
  const auto end = lab.run({"wait", job, "--timeout", "600"}, 610s);
  CHECK_MESSAGE(end.exit_code == 0, end.out << end.err);
  const std::string results = read_file(lab.scratch() / "hpccoutf.txt").value();
  CHECK(results.find("FAILED") == std::string::npos);
  CHECK(results.find("PASSED") != std::string::npos);
  CHECK(lines_starting(results, "End of HPC Challenge tests").size() == 1);
}
