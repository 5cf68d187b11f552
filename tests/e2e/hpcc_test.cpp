// HPC Challenge, checkpointed and restarted in the middle of its HPL: all its own checks pass.
#include <doctest/doctest.h>

#include <fstream>

#include "common/file.h"
#include "tests/e2e/examples.h"

using namespace stillpoint;
using namespace stillpoint::e2e;

namespace {

// Rank 0 shows the results file while it grows, so that the test knows when HPL runs.
constexpr const char* kScript = R"(#!/bin/sh
if [ "$OMPI_COMM_WORLD_RANK" = 0 ]; then
  : >hpccoutf.txt
  tail -n +1 -f hpccoutf.txt &
  shown=$!
  hpcc
  code=$?
  sleep 1
  kill $shown
  exit $code
fi
exec hpcc
)";

}  // namespace

TEST_CASE("hpcc restarted in the middle of HPL passes its own checks") {
  TestLab lab("hpcc", 2);
  { std::ofstream(lab.scratch() / "run-hpcc") << kScript; }
  fs::permissions(lab.scratch() / "run-hpcc", fs::perms::owner_all);
  JobText text{.name = "hpcc", .command = "[./run-hpcc]", .files = {lab.scratch() / "run-hpcc", example("hpcc/hpccinf.txt")},
               .outputs = {"hpccoutf.txt"}, .memory = "512MiB"};
  const std::string job = lab.submit(text);
  lab.wait_for_lines(job, "Begin of HPL section", 1, 200s);
  lab.ok({"checkpoint", job});
  CHECK(lines_starting(lab.logs(job), "End of HPL section").empty());
  const json restarted = lab.ok({"restart", job});
  CHECK(restarted.at("incarnation") == 2);
  const auto end = lab.run({"wait", job, "--timeout", "200"}, 220s);
  CHECK_MESSAGE(end.exit_code == 0, end.out << end.err);
  const std::string results = read_file(lab.scratch() / "hpcc" / "hpccoutf.txt").value();
  CHECK(results.find("FAILED") == std::string::npos);
  CHECK(results.find("PASSED") != std::string::npos);
  CHECK(lines_starting(results, "End of HPC Challenge tests").size() == 1);
}
