// What goes wrong by mistake: a clear error each, the exit code that is promised, the job running on, nothing lost.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/mount.h>

#include <cerrno>
#include <fstream>

#include "tests/e2e/examples.h"

using namespace stillpoint;
using namespace stillpoint::e2e;

namespace {

// A small file system that all hosts reach, for the checkpoints.
struct SmallStore {
  explicit SmallStore(const std::string& bytes) {
    fs::create_directories(path);
    (void)::umount2(path.c_str(), MNT_DETACH);  // of an earlier run that was cut short
    REQUIRE(::mount("none", path.c_str(), "tmpfs", 0, ("size=" + bytes).c_str()) == 0);
  }
  ~SmallStore() {
    ::umount2(path.c_str(), MNT_DETACH);
    fs::remove(path);
  }
  // To the last page: what a checkpoint adds to the one before may be little.
  void fill() const {
    std::ofstream file(path / "filler", std::ios::binary);
    const std::string block(1 << 16, 'x');
    while (file.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) {}
    REQUIRE(fs::space(path).available == 0);
  }
  void empty() const { fs::remove(path / "filler"); }
  const fs::path path = test_directory("store");
};

struct Stopped {
  explicit Stopped(pid_t process) : pid(process) { REQUIRE(::kill(pid, SIGSTOP) == 0); }
  ~Stopped() { ::kill(pid, SIGCONT); }
  pid_t pid;
};

pid_t daemon_of(const TestLab& lab, const std::string& host) {
  const json status = lab.lab({"status"});
  for (const auto& known : status.at("hosts"))
    if (known.at("name") == host) return known.at("pid");
  FAIL("no host " << host);
  return 0;
}

void check_refused(const ProcessOutcome& outcome, int exit_code, const std::string& says) {
  CHECK_MESSAGE(outcome.exit_code == exit_code, outcome.err);
  CHECK_MESSAGE(outcome.err.find(says) != std::string::npos, outcome.err);
}

}  // namespace

TEST_CASE("mistakes and full disks") {
  SmallStore store("700m");
  TestLab lab("bad", 3, {"--images-dir", store.path.string(), "--lease-ms", "60000", "--node-arg=--store-reserve=0"});

  JobText text = Ring{}.job("ring");
  const std::string job = lab.submit(text);
  {
    // While it boots: a manifest that is broken in several places, each told with its line.
    {
      std::ofstream(lab.scratch() / "broken.yaml")
          << "apiVersion: stillpoint/v1\nkind: MpiJob\nmetadata: {name: x}\nspec:\n"
             "  guests: {count: two}\n  mpi: {ranks: -1, comand: [x]}\n";
    }
    const std::string broken = lab.scratch() / "broken.yaml";
    for (const char* command : {"validate", "submit"}) {
      const auto refused = lab.run({command, broken});
      check_refused(refused, 1, "broken.yaml:5:");
      check_refused(refused, 1, "broken.yaml:6:");
    }
    JobText no_image = text;
    no_image.name = "no-image";
    no_image.image = "/nowhere/disk.qcow2";
    check_refused(lab.run({"submit", lab.write_manifest(no_image)}), 1, "/nowhere/disk.qcow2");
    JobText no_host = text;
    no_host.name = "no-host";
    no_host.hosts = "[h9]";
    check_refused(lab.run({"submit", lab.write_manifest(no_host)}), 1, "h9");
    JobText too_large = text;
    too_large.name = "too-large";
    too_large.memory = "9000GiB";
    check_refused(lab.run({"submit", lab.write_manifest(too_large)}), 1, "memory");
    check_refused(lab.run({"checkpoint", "j999"}), 4, "j999");
    check_refused(lab.run({"status", "nobody"}), 4, "nobody");
    check_refused(lab.run({"no-such-command"}), 2, "");
    const auto nobody_there = run_process({program().string(), "--server", "/nowhere/api.sock", "jobs"});
    REQUIRE(nobody_there.has_value());
    check_refused(*nobody_there, 3, "/nowhere/api.sock");
  }

  lab.wait_for_lines(job, kRingLine, 2);
  const int good = lab.ok({"checkpoint", job}).at("epoch");
  const auto runs_on = [&] {
    CHECK(lab.state(job) == "running");
    lab.wait_for_lines(job, kRingLine, lines_starting(lab.logs(job), kRingLine).size() + 2);
  };

  check_refused(lab.run({"restart", job, "--from", "4711"}), 4, "4711");
  runs_on();
  check_refused(lab.run({"restart", job, "--from", std::to_string(good), "--hosts", "h1,h9"}), 4, "h9");
  runs_on();

  {
    // A host that does not answer: its daemon is there, and silent.
    const std::string silent = lab.hosts_of(job).at(1);
    Stopped stopped(daemon_of(lab, silent));
    check_refused(lab.run({"checkpoint", job}), 1, silent);
  }
  runs_on();

  {
    // No room for the images.
    store.fill();
    const auto full = lab.run({"checkpoint", job});
    check_refused(full, 1, "space");
    CHECK(json::parse(full.out).at("error").at("kind") == "storage-full");
    store.empty();
  }
  runs_on();
  std::size_t committed = 0;
  for (const auto& checkpoint : lab.ok({"checkpoints", job})) {
    if (checkpoint.at("state") == "committed") ++committed;
    CHECK((checkpoint.at("state") == "committed" || checkpoint.at("state") == "aborted"));
  }
  CHECK(committed == 1);

  // Nothing is lost: there is room again, checkpoints work, and the one from before restores.
  lab.ok({"checkpoint", job});
  lab.ok({"restart", job, "--from", std::to_string(good)});
  runs_on();

  lab.ok({"stop", job});
  check_refused(lab.run({"checkpoint", job}), 1, "only a running job");
}
