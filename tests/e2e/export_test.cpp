// A checkpoint leaves one site as a file, and the job goes on at another one, which has a key of its own and has never
// seen it.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <fstream>

#include "common/file.h"
#include "tests/e2e/examples.h"

using namespace stillpoint;
using namespace stillpoint::e2e;

namespace {

std::string passphrase_file(const TestLab& lab, const std::string& name, const std::string& text) {
  const fs::path path = lab.scratch() / name;
  REQUIRE(publish_file(path, text).has_value());
  return path;
}

std::string why_refused(const TestLab& lab, const std::vector<std::string>& arguments) {
  const auto outcome = lab.run(arguments);
  CHECK(outcome.exit_code == 1);
  return outcome.err;
}

bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("a checkpoint goes to another site as one file, and its job goes on there to the right end") {
  TestLab there("export", 2), here("import", 2);
  Churn churn;
  churn.mebibytes = 4;
  const std::string file = there.scratch() / "churn.export";
  const std::string pass = passphrase_file(there, "pass", "what both sites know\n");

  // The other site.
  const std::string job = there.submit(churn.job("churn"));
  there.wait_for_lines(job, kChurnLine, 3);
  const json taken = there.ok({"checkpoint", job});
  const json exported = there.ok({"export", job, file, "--passphrase-file", pass});
  CHECK(exported.at("epoch") == taken.at("epoch"));
  CHECK(exported.at("bytes") == fs::file_size(file));
  CHECK(exported.at("sealed") == true);
  MESSAGE(exported.at("bytesRaw") << " bytes in a file of " << exported.at("bytes"));
  struct stat info {};
  REQUIRE(::stat(file.c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
  CHECK(says(why_refused(there, {"export", job, file, "--passphrase-file", pass}), "a file of that name already"));
  there.ok({"stop", job});
  const std::string before = there.logs(job);

  // This one.
  const std::string wrong = passphrase_file(there, "wrong", "another\n");
  CHECK(says(why_refused(here, {"import", file, "--passphrase-file", wrong}), "passphrase is not"));
  CHECK(says(why_refused(here, {"import", file}), "--passphrase-file"));
  const std::string cut = there.scratch() / "cut.export";
  fs::copy_file(file, cut);
  fs::resize_file(cut, fs::file_size(file) / 8);
  CHECK(says(why_refused(here, {"import", cut, "--passphrase-file", pass}), "cut off"));
  CHECK(here.ok({"jobs"}).empty());
  CHECK(until(kPatience, [&] { return packs_of(here).empty(); }));

  // Under numbers that the guests have never heard of: the import that was cut off has had theirs.
  const json imported = here.ok({"import", file, "--passphrase-file", pass});
  CHECK(says(why_refused(here, {"import", file, "--passphrase-file", pass}), "of that name already"));
  const std::string id = imported.at("job");
  CHECK(id != job);
  CHECK(imported.at("epoch") != taken.at("epoch"));
  CHECK(here.state(id) == "stopped");
  const std::string output = here.logs(id);
  CHECK(before.starts_with(output));
  CHECK(here.ok({"verify", id}).at("epochs").at(0).at("state") == "ok");

  CHECK(here.ok({"restart", id}).at("epoch") == imported.at("epoch"));
  const auto lines = [&] { return lines_starting(here.logs(id), kChurnLine).size(); };
  here.wait_for_lines(id, kChurnLine, lines() + 2);
  const json next = here.ok({"checkpoint", id});
  here.ok({"restart", id});
  CHECK(here.ok({"status", id}).at("lastCheckpoint") == next.at("epoch"));
  here.wait_for_lines(id, kChurnLine, lines() + 2);
  const std::string logs = here.logs(id);
  here.ok({"stop", id});
  Churn undisturbed = churn;
  undisturbed.steps = static_cast<unsigned>(check_numbered(logs, kChurnLine, 1, 1));
  CHECK(printed_by_program(logs) == run_natively(4, example("churn/churn"), undisturbed.arguments()));

  here.ok({"rm", id});
  CHECK(packs_of(here).empty());
}
