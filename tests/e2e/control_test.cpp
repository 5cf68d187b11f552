// The control: what happens without the quiescing. It proves that the quiescing is what makes the other tests pass.
#include <doctest/doctest.h>

#include "tests/e2e/examples.h"

using namespace stillpoint;
using namespace stillpoint::e2e;

TEST_CASE("captures 0.3 s apart without quiescing are rejected, and hang the job when they are not") {
  TestLab lab("control", 2);
  JobText text = Ring{}.job("ring");
  text.keep = 8;
  const std::string job = lab.submit(text);
  lab.wait_for_lines(job, kRingLine, 2);
  const int sound = lab.ok({"checkpoint", job}).at("epoch");

  std::vector<int> torn;
  for (int i = 0; i < 2; ++i)
    torn.push_back(lab.ok({"checkpoint", job, "--test-uncoordinated-gap-ms", "300"}).at("epoch"));

  // The links are compared after a restore, and the checkpoint is rejected.
  for (const int epoch : torn) {
    const auto refused = lab.run({"restart", job, "--from", std::to_string(epoch)});
    CHECK(refused.exit_code == 1);
    CHECK_MESSAGE(refused.err.find("link") != std::string::npos, refused.err);
    CHECK_MESSAGE(refused.err.find(" socket 10.99.") != std::string::npos, refused.err);
  }
  // Without that comparison the job does not go on.
  int went_on = 0;
  for (const int epoch : torn) {
    const auto back = lab.run({"restart", job, "--from", std::to_string(epoch), "--test-skip-linkcheck"});
    if (back.exit_code != 0) continue;
    const auto before = last_number(lab.logs(job), kRingLine);
    if (until(20s, [&] { return last_number(lab.logs(job), kRingLine) > before + 2; })) ++went_on;
  }
  CHECK(went_on < static_cast<int>(torn.size()));

  // The sound checkpoint restores all the same.
  lab.ok({"restart", job, "--from", std::to_string(sound)});
  lab.wait_for_lines(job, kRingLine, lines_starting(lab.logs(job), kRingLine).size() + 3);
}
