#include "tests/simulation/run.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <stdexcept>

#include "common/file.h"
#include "tests/simulation/shrink.h"

namespace stillpoint::simulation {
namespace {

// The invariant's name, without what it says of this history.
std::string name_of(const std::string& broken) {
  const auto name = broken.substr(0, broken.find(':'));
  return name == "coordinator" ? broken : name;
}

bool is_noise(const std::string& line) {
  static constexpr const char* kNoise[] = {
      "CountGang",       "RoundReport",    "Ping",  "Pong",           "AckOutput", "GuestOutput", "append ",
      "durable to",      "> tick",         " log ", "measure output", " changed",  "HeldImages",  "keep the output",
      "drop the output", "truncate output"};
  if (line.size() < 14) return true;
  if (line.compare(10, 1, "h") == 0 && line.find("daemon starts") == std::string::npos &&
      line.find("by itself") == std::string::npos)
    return true;
  return std::any_of(std::begin(kNoise), std::end(kNoise),
                     [&](const char* word) { return line.find(word) != std::string::npos; });
}

}  // namespace

Outcome run(const Plan& plan, bool transcript) { return Cluster(plan, transcript).run(); }

Plan shrunk(const Plan& plan, const std::string& broken) {
  const auto wanted = name_of(broken);
  return shrink(plan, [&](const Plan& candidate) { return name_of(run(candidate, false).broken) == wanted; });
}

std::vector<std::string> story(const std::vector<std::string>& transcript) {
  std::vector<std::string> lines;
  for (const auto& line : transcript)
    if (!is_noise(line)) lines.push_back(line);
  return lines;
}

std::vector<Plan> kept_histories() {
  std::set<std::filesystem::path> files;
  for (const char* folder : {"found", "stories"})
    for (const auto& entry :
         std::filesystem::directory_iterator(std::filesystem::path(STILLPOINT_SOURCE_DIR "/tests/simulation") / folder))
      if (entry.path().extension() == ".plan") files.insert(entry.path());
  std::vector<Plan> plans;
  for (const auto& file : files) {
    const auto text = read_file(file.string());
    if (!text) throw std::runtime_error(text.error().message());
    auto plan = parse(*text);
    if (!plan) throw std::runtime_error(file.string() + ": " + plan.error().message());
    plans.push_back(std::move(*plan));
  }
  return plans;
}

void Totals::add(const Outcome& outcome) {
  ++histories;
  broken += !outcome.broken.empty();
  steps += outcome.steps;
  jobs += outcome.jobs;
  virtual_hours += static_cast<double>(outcome.time.count()) / 3'600'000;
  Totals one;
  one.met = outcome.met;
  add(one);
}

void Totals::add(const Totals& other) {
  histories += other.histories;
  broken += other.broken;
  steps += other.steps;
  jobs += other.jobs;
  virtual_hours += other.virtual_hours;
  met.committed += other.met.committed;
  met.aborted += other.met.aborted;
  met.damaged += other.met.damaged;
  met.restored += other.met.restored;
  met.completed += other.met.completed;
  met.failed += other.met.failed;
}

bool Totals::say_something() const {
  return met.committed != 0 && met.aborted != 0 && met.damaged != 0 && met.restored != 0 && met.completed != 0 &&
         met.failed != 0;
}

std::string Totals::words() const {
  return fmt::format(
      "{} histories, {} broken; {} jobs, {} checkpoints committed, {} aborted, {} found damaged, {} restarts, {} "
      "completed, {} failures; {} steps of the cores, {:.0f} h of virtual time",
      histories, broken, jobs, met.committed, met.aborted, met.damaged, met.restored, met.completed, met.failed, steps,
      virtual_hours);
}

std::string summary(const std::vector<Outcome>& outcomes) {
  Totals totals;
  for (const auto& outcome : outcomes) totals.add(outcome);
  return totals.words();
}

}  // namespace stillpoint::simulation
