#include "tests/e2e/harness.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>
#include <thread>

#include "cli/lab/layout.h"
#include "cli/lab/network.h"
#include "cli/lab/processes.h"
#include "common/file.h"

namespace stillpoint::e2e {
namespace {

constexpr milliseconds kLookAgain{100};

// What would make every case fail later and less clearly.
std::string why_machines_cannot_run() {
  if (::geteuid() != 0) return "these tests need root: they make network namespaces and virtual machines";
  if (!Fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC)))
    return "/dev/net/tun cannot be opened (" + errno_error("open", "/dev/net/tun", errno).cause +
           "): guests get no network here; load the tun module, or give the container the device";
  if (const auto image = build_directory() / "guest"; !fs::exists(image / "initrd.img"))
    return "there is no guest image in " + image.string() + ": run scripts/build";
  return "";
}

std::string read_all(const fs::path& path) {
  auto text = read_file(path);
  return text ? std::move(*text) : "";
}

}  // namespace

bool until(milliseconds limit, const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(kLookAgain);
  }
  return true;
}

fs::path build_directory() {
  const char* given = std::getenv("STILLPOINT_BUILD");
  return given != nullptr ? given : STILLPOINT_BINARY_DIR;
}

fs::path test_directory(const std::string& name) {
  return "/tmp/spl-e2e-" + name + "-" + std::to_string(std::hash<std::string>{}(build_directory().string()) % 100'000);
}

fs::path program() { return build_directory() / "bin" / "stillpoint"; }

fs::path example(const std::string& file) { return fs::path(STILLPOINT_SOURCE_DIR) / "jobs" / "examples" / file; }

fs::path test_file(const std::string& file) { return fs::path(STILLPOINT_SOURCE_DIR) / "tests" / "e2e" / file; }

std::vector<fs::path> packs_of(const TestLab& lab) {
  const fs::path images = lab.lab({"status"}).at("images").get<std::string>();
  std::vector<fs::path> packs;
  for (const auto& entry : fs::recursive_directory_iterator(images))
    if (entry.path().extension() == ".pack") packs.push_back(entry.path());
  return packs;
}

unsigned number_from(const char* variable, unsigned otherwise) {
  const char* text = std::getenv(variable);
  return text != nullptr ? static_cast<unsigned>(std::strtoul(text, nullptr, 10)) : otherwise;
}

std::uint64_t seed() {
  static const char* given = std::getenv("STILLPOINT_SEED");
  static const std::uint64_t chosen = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  return chosen;
}

std::vector<std::string> lines_starting(const std::string& text, const std::string& prefix) {
  std::vector<std::string> found;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with(prefix)) found.push_back(line);
  return found;
}

std::string printed_by_program(const std::string& output) {
  std::string text;
  std::istringstream lines(output);
  for (std::string line; std::getline(lines, line);)
    if (line.find("plm:ssh: Warning: setpgid(") == line.npos) text += line + (lines.eof() ? "" : "\n");
  return text;
}

TestLab::TestLab(const std::string& name, unsigned hosts, const std::vector<std::string>& up_arguments)
    : name_(name), directory_(test_directory(name)), scratch_(directory_.string() + ".work") {
  if (const auto reason = why_machines_cannot_run(); !reason.empty()) FAIL(reason);
  (void)run_process({program().string(), "lab", "down", "--dir", directory_.string()});
  fs::remove_all(scratch_);
  fs::create_directories(scratch_);
  watch_over();
  std::vector<std::string> arguments = {"up", "--hosts", std::to_string(hosts)};
  arguments.insert(arguments.end(), up_arguments.begin(), up_arguments.end());
  server_ = lab(arguments).at("server");
}

TestLab::~TestLab() {
  keep_logs();
  auto down = run_process({program().string(), "lab", "down", "--dir", directory_.string()});
  CHECK(down.has_value());
  if (down) CHECK_MESSAGE(down->exit_code == 0, down->err);
  check_nothing_left();
  std::error_code ignored;
  fs::remove_all(scratch_, ignored);
  CHECK(::write(watcher_.get(), "done\n", 5) == 5);
  ::waitpid(watcher_pid_, nullptr, 0);
}

void TestLab::watch_over() {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  Fd read_end(ends[0]);
  watcher_ = Fd(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, read_end.get(), 0);
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);  // who reads the test's output need not wait
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);  // what is sent to the test's group is not for it
  std::string shell = "sh", option = "-c", program_path = program(), directory = directory_, scratch = scratch_;
  std::string script = R"(read -r word || { "$0" lab down --dir "$1"; rm -rf "$2"; })";
  char* const argv[] = {shell.data(),     option.data(),  script.data(), program_path.data(),
                        directory.data(), scratch.data(), nullptr};
  const int failed = ::posix_spawn(&watcher_pid_, "/bin/sh", &actions, &attributes, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  REQUIRE(failed == 0);
}

void TestLab::keep_logs() const {
  std::error_code ignored;
  const fs::path kept = build_directory() / "e2e-logs" / name_;
  fs::remove_all(kept, ignored);
  fs::create_directories(kept, ignored);
  fs::copy(directory_ / "log", kept, ignored);
  for (fs::recursive_directory_iterator entry(directory_ / "hosts", ignored), end; !ignored && entry != end;
       entry.increment(ignored))
    if (entry->path().extension() == ".log") {
      std::string name = entry->path().lexically_relative(directory_ / "hosts");
      std::replace(name.begin(), name.end(), '/', '_');
      std::error_code not_copied;
      fs::copy_file(entry->path(), kept / name, not_copied);
    }
}

// Not by asking `lab down` itself.
void TestLab::check_nothing_left() const {
  const auto layout = lab::Layout::at(directory_);
  CHECK(lab::existing_namespaces(*layout).empty());
  CHECK_FALSE(fs::exists(directory_));
  CHECK(read_all("/proc/self/mountinfo").find(directory_.string() + "/") == std::string::npos);
  std::error_code failed;
  for (fs::directory_iterator entry("/proc", failed), end; !failed && entry != end; entry.increment(failed)) {
    const std::string command = read_all(entry->path() / "cmdline");
    for (const fs::path& path : {directory_, layout->link()})
      CHECK_MESSAGE(command.find(path.string() + "/") == std::string::npos, "still running: " << command);
  }
}

ProcessOutcome TestLab::run(std::vector<std::string> arguments, milliseconds deadline) const {
  arguments.insert(arguments.begin(), {program().string(), "--json", "--server", server_});
  auto outcome = run_process(arguments, {.deadline = deadline});
  if (!outcome) FAIL(outcome.error().message());
  return std::move(*outcome);
}

json TestLab::ok(const std::vector<std::string>& arguments, milliseconds deadline) const {
  const auto outcome = run(arguments, deadline);
  if (outcome.exit_code != 0) {
    std::string text;
    for (const auto& argument : arguments) text += " " + argument;
    FAIL("stillpoint" << text << ": exit code " << outcome.exit_code << "\n" << outcome.err);
  }
  const json document = json::parse(outcome.out, nullptr, false);
  REQUIRE_MESSAGE(!document.is_discarded(), outcome.out);
  return document;
}

json TestLab::lab(std::vector<std::string> arguments) const {
  arguments.insert(arguments.begin(), "lab");
  arguments.insert(arguments.end(), {"--dir", directory_.string()});
  arguments.insert(arguments.begin(), {program().string(), "--json"});
  auto outcome = run_process(arguments, {.deadline = kPatience});
  if (!outcome) FAIL(outcome.error().message());
  if (outcome->exit_code != 0) FAIL("stillpoint lab " << arguments[3] << ": " << outcome->err);
  return json::parse(outcome->out);
}

fs::path TestLab::catalog() const { return lab::Layout::at(directory_)->coordinator() / "state" / "catalog.db"; }

fs::path TestLab::write_manifest(const JobText& job) const {
  const fs::path directory = scratch_ / job.name;
  fs::create_directories(directory);
  std::string files, outputs;
  for (const auto& file : job.files) {
    fs::copy_file(file, directory / file.filename(), fs::copy_options::overwrite_existing);
    files += (files.empty() ? "" : ", ") + file.filename().string();
  }
  for (const auto& output : job.outputs) outputs += (outputs.empty() ? "" : ", ") + output;
  std::ofstream text(directory / "job.yaml");
  text << "apiVersion: stillpoint/v1\nkind: MpiJob\nmetadata:\n  name: " << job.name
       << "\nspec:\n  image: " << job.image << "\n  guests: {count: " << job.guests
       << ", vcpus: 1, memory: " << job.memory << ", disk: 1GiB}\n  mpi:\n    ranks: " << job.ranks
       << "\n    command: " << job.command << "\n    files: [" << files << "]\n    outputs: [" << outputs << "]\n"
       << (job.env.empty() ? "" : "    env: " + job.env + "\n") << "  checkpoint: {interval: " << job.interval
       << ", keep: " << job.keep << (job.durability.empty() ? "" : ", durability: " + job.durability)
       << "}\n  restart: "
       << (job.comes_back ? "{policy: on-failure, maxRestarts: " + std::to_string(job.max_restarts) + "}"
                          : std::string("{policy: never}"))
       << "\n";
  if (!job.hosts.empty()) text << "  placement: {hosts: " << job.hosts << "}\n";
  text.close();
  return directory / "job.yaml";
}

std::string TestLab::submit(const JobText& job) const { return ok({"submit", write_manifest(job).string()}).at("job"); }

std::string TestLab::logs(const std::string& job) const { return ok({"logs", job}).at("output"); }

std::uint64_t TestLab::most_node_memory() const {
  std::uint64_t most = 0;
  for (const json& host : ok({"hosts"})) {
    std::ifstream status("/proc/" + std::to_string(host.at("daemonPid").get<pid_t>()) + "/status");
    for (std::string word; status >> word;)
      if (std::uint64_t kib = 0; word == "VmHWM:" && status >> kib) most = std::max(most, kib >> 10);
  }
  return most;
}

std::vector<std::string> TestLab::hosts_of(const std::string& job) const {
  return status(job).at("hosts").get<std::vector<std::string>>();
}

void TestLab::wait_for_lines(const std::string& job, const std::string& prefix, std::size_t count,
                             milliseconds limit) const {
  std::string text, now;
  const bool there = until(limit, [&] {
    text = logs(job);
    if (lines_starting(text, prefix).size() >= count) return true;
    now = state(job);
    return now == "failed" || now == "stopped";
  });
  const auto found = lines_starting(text, prefix).size();
  if (!there || found < count)
    FAIL(job << " is " << state(job) << " (" << status(job).dump() << ") and has printed " << found
             << " lines that start with '" << prefix << "', not " << count << ":\n"
             << text.substr(text.size() > 4000 ? text.size() - 4000 : 0));
}

std::string run_natively(unsigned ranks, const fs::path& executable, const std::vector<std::string>& arguments,
                         const std::function<void(const fs::path&)>& take) {
  // guest-cc sees the checkout and nothing else.
  std::string directory = std::string(STILLPOINT_BINARY_DIR) + "/native-XXXXXX";
  REQUIRE(::mkdtemp(directory.data()) != nullptr);
  struct Remove {
    fs::path path;
    ~Remove() { fs::remove_all(path); }
  } remove{directory};
  fs::copy_file(executable, fs::path(directory) / executable.filename());
  std::string command = "cd '" + directory + "' && STILLPOINT_BUILD='" + build_directory().string() +
                        "' '" STILLPOINT_SOURCE_DIR
                        "/scripts/guest-cc' --with mpirun --allow-run-as-root --oversubscribe -n " +
                        std::to_string(ranks) + " ./" + executable.filename().string();
  for (const auto& argument : arguments) command += " '" + argument + "'";
  auto outcome = run_process({"/bin/sh", "-c", command}, {.deadline = kPatience});
  if (!outcome) FAIL(outcome.error().message());
  if (outcome->exit_code != 0) FAIL(command << ": exit code " << outcome->exit_code << "\n" << outcome->err);
  if (take) take(directory);
  return outcome->out;
}

}  // namespace stillpoint::e2e
