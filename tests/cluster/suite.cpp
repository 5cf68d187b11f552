#include "tests/cluster/suite.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>

namespace stillpoint::cluster {

std::uint32_t number_from(const char* variable, std::uint32_t otherwise) {
  const char* text = std::getenv(variable);
  return text != nullptr ? static_cast<std::uint32_t>(std::strtoul(text, nullptr, 10)) : otherwise;
}

JobText job(const Program& program, const std::string& rounds) {
  JobText text;
  text.command = program.command;
  if (text.command.empty()) text.command = {"./" + program.name};
  text.command.push_back(rounds);
  text.command.insert(text.command.end(), program.arguments.begin(), program.arguments.end());
  text.ranks_per_guest = {2, 2};
  // Four ranks that spin share this machine's processors.
  text.env = {{"OMPI_MCA_mpi_yield_when_idle", "1"}};
  return text;
}

std::string result(Cluster& cluster) {
  const std::string& text = cluster.output();
  const std::size_t at = text.rfind("rounds ");
  REQUIRE_MESSAGE(at != text.npos, cluster.problem());
  return text.substr(at, text.find('\n', at) - at);
}

std::string undisturbed(const Program& program, const std::string& rounds) {
  Cluster cluster(program.by_guest ? 2 : 1);
  cluster.put_program(program.name);
  for (const std::string& file : program.files) cluster.put_program(file);
  JobText text = job(program, rounds);
  if (!program.by_guest) text.ranks_per_guest = {4};
  cluster.start(text);
  cluster.wait_for_end(kLong);
  return result(cluster);
}

std::string text_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<pid_t> ranks_of(Cluster& cluster, unsigned guest, const std::string& program) {
  std::vector<pid_t> ranks;
  for (pid_t pid : cluster.node(guest).job_processes())
    if (text_of("/proc/" + std::to_string(pid) + "/comm") == program + "\n") ranks.push_back(pid);
  return ranks;
}

std::string rank_number(pid_t pid) {
  const std::string environment = '\0' + text_of("/proc/" + std::to_string(pid) + "/environ");
  const std::string name = std::string(1, '\0') + "OMPI_COMM_WORLD_RANK=";
  const std::size_t at = environment.find(name);
  REQUIRE(at != environment.npos);
  return environment.c_str() + at + name.size();
}

Run::Run(Program program) : program_(std::move(program)), cluster_(std::make_unique<Cluster>(2)) {
  cluster_->put_program(program_.name);
  for (const std::string& file : program_.files) cluster_->put_program(file);
  cluster_->start(job(program_, "0"));
  cluster_->wait_for_output("round 0", kLong);
}

void Run::tell(const std::string& what) {
  for (unsigned guest = 0; guest < cluster_->size(); ++guest)
    REQUIRE_MESSAGE(cluster_->put_file(guest, what, "", 0644), cluster_->problem());
}

void Run::tell_and_wait(const std::string& what, const std::string& answer) {
  tell(what);
  cluster_->wait_for_output(answer, kLong);
}

void Run::is_quiet() {
  const CycleResult next = cluster_->cycle({});
  REQUIRE_MESSAGE(next.quiet, next.why << "\n" << cluster_->problem());
}

void Run::ends_as_undisturbed() {
  tell("stop");
  cluster_->wait_for_end(kLong);
  const std::string last = result(*cluster_);
  cluster_.reset();  // the next one has the same addresses
  CHECK(undisturbed(program_, last.substr(7, last.find(' ', 7) - 7)) == last);
}

}  // namespace stillpoint::cluster
