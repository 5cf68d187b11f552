#include "mpi-hooks/agent/mpirun.h"

#include <algorithm>
#include <cctype>

namespace stillpoint::agent {
namespace {

constexpr char kPreload[] = "LD_PRELOAD";

bool is_variable_name(const std::string& name) {
  return !name.empty() && std::isdigit(static_cast<unsigned char>(name[0])) == 0 &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; });
}

void append(std::vector<std::string>& argv, std::initializer_list<const char*> words) {
  argv.insert(argv.end(), words.begin(), words.end());
}

// What quiescing and ULFM rest on: see docs/architecture.md. Everything between guests goes over TCP on eth0, where
// both ends can be compared; a rank has no accelerator here, and opening the components for one loads an LLVM.
void append_pins(std::vector<std::string>& argv) {
  append(argv, {"--with-ft", "ulfm", "--allow-run-as-root", "--bind-to", "none"});
  append(argv, {"--mca", "pml", "ob1", "--mca", "btl", "self,sm,tcp", "--mca", "osc", "^ucx"});
  append(argv, {"--mca", "btl_tcp_if_include", "eth0", "--mca", "accelerator", "null"});
  append(argv, {"--prtemca", "prte_if_include", "eth0", "--prtemca", "plm_ssh_no_tree_spawn", "1"});
  append(argv, {"--prtemca", "plm", "ssh", "--prtemca", "plm_ssh_agent", kLaunchProgram});
  // Where a rank ends before the thread that forked it has noted its pid, nobody hears of its end, and mpirun waits for
  // ever (openpmix/prrte#2713). So no threads to fork from: PRRTE's own event loop does it.
  append(argv, {"--prtemca", "odls_base_max_threads", "0"});
}

}  // namespace

Outcome<std::vector<std::string>> mpirun_command(const MpirunInputs& inputs) {
  const auto refused = [](std::string object, std::string cause) {
    return failure(wire::Failure::REFUSED, "start job", std::move(object), std::move(cause));
  };
  const wire::StartJob& job = *inputs.job;
  if (job.command().empty()) return refused("command", "it is empty");
  if (static_cast<std::size_t>(job.ranks_per_guest_size()) > inputs.guests.size())
    return refused("ranks per guest", "there are more entries than guests");

  std::string hosts;
  std::uint32_t total = 0, most = 0;
  for (int guest = 0; guest < job.ranks_per_guest_size(); ++guest) {
    const std::uint32_t ranks = job.ranks_per_guest(guest);
    if (ranks == 0) continue;
    hosts += (hosts.empty() ? "" : ",") + inputs.guests[static_cast<std::size_t>(guest)] + ":" + std::to_string(ranks);
    total += ranks;
    most = std::max(most, ranks);
  }
  if (total == 0) return refused("ranks per guest", "there is no rank to start");

  std::vector<std::string> argv{"mpirun"};
  append_pins(argv);
  if (most > inputs.cpus) append(argv, {"--mca", "mpi_yield_when_idle", "1"});
  argv.insert(argv.end(), {"--host", hosts, "-n", std::to_string(total), "--map-by", "slot:OVERSUBSCRIBE"});
  argv.insert(argv.end(), {"--wdir", inputs.workdir});
  std::string preload = inputs.hooks ? kHookLibrary : "";
  for (const auto& [name, value] : std::map<std::string, std::string>(job.env().begin(), job.env().end())) {
    if (!is_variable_name(name)) return refused("variable " + name, "this is no name of an environment variable");
    if (name == kPreload) {
      preload += (preload.empty() ? "" : ":") + value;
    } else {
      // By name: the value is in mpirun's own environment, where no separator can break it.
      append(argv, {"-x", name.c_str()});
    }
  }
  if (!preload.empty()) argv.insert(argv.end(), {"-x", std::string(kPreload) + "=" + preload});
  argv.insert(argv.end(), job.command().begin(), job.command().end());
  return argv;
}

std::map<std::string, std::string> job_environment(const std::string& workdir, const wire::StartJob* job, bool hooks) {
  std::map<std::string, std::string> env{
      {"HOME", "/root"}, {"USER", "root"}, {"LANG", "C.UTF-8"}, {"SHELL", "/bin/sh"}};
  if (job != nullptr) env.insert(job->env().begin(), job->env().end());
  env.erase(kPreload);  // the manifest's is for the ranks, not for mpirun
  if (hooks) env[kPreload] = kHookLibrary;
  std::string& path = env["PATH"];
  if (path.empty()) path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  path += ":" + workdir;
  return env;
}

}  // namespace stillpoint::agent
