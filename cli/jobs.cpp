// jobs, status, checkpoints, stop, rm; hosts, cordon, uncordon: one question each.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/api_client.h"
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/text.h"

namespace stillpoint::cli {
namespace {

using nlohmann::json;
using Ask = std::function<Called<json>(const ApiClient&, const std::string& name)>;
using Show = std::function<std::string(const json&, const std::string& name)>;

// One question, its answer as JSON or as show() makes it.
int ask_and_show(CommandContext& context, const std::string& name, const Ask& ask, const Show& show) {
  const auto client = connect(context);
  if (!client) return report(context, client.error());
  const auto answer = ask(*client, name);
  if (!answer) return report(context, answer.error());
  if (context.json) print_json(context, *answer);
  else context.out << show(*answer, name) << std::flush;
  return kDone;
}

void add(CLI::App& app, CommandContext& context, const char* command, const char* help, const char* argument, Ask ask,
         Show show) {
  auto name = std::make_shared<std::string>();
  auto* sub = app.add_subcommand(command, help);
  if (argument != nullptr) sub->add_option(argument, *name)->required();
  sub->callback([&context, name, ask, show] {
    context.action = [&context, name, ask, show] { return ask_and_show(context, *name, ask, show); };
  });
}

std::string job_target(const std::string& name) { return "/v1/jobs/" + url_segment(name); }
std::string host_target(const std::string& name) { return "/v1/hosts/" + url_segment(name); }

std::string show_jobs(const json& jobs, const std::string&) {
  if (jobs.empty()) return "no jobs\n";
  std::vector<std::vector<std::string>> rows;
  for (const auto& job : jobs) {
    rows.push_back({cell(job, "job"), cell(job, "name"), cell(job, "state"), cell(job, "hosts"),
                    cell(job, "lastCheckpoint"), cell(job, "restarts"), cell(job, "exitCode"), cell(job, "reason")});
  }
  return table({"JOB", "NAME", "STATE", "HOSTS", "CHECKPOINT", "RESTARTS", "EXIT", "REASON"}, rows);
}

std::string ms_cell(const json& row, const char* key) {
  return row.contains(key) && row[key].is_number() ? human_ms(row[key].get<double>()) : "-";
}

// None is not worth a word.
std::string count_cell(const json& row, const char* key) {
  return row.contains(key) && row[key] != 0 ? cell(row, key) : "-";
}

double number_of(const json& row, const char* key) {
  return row.contains(key) && row[key].is_number() ? row[key].get<double>() : 0;
}

// How often it is checkpointed by itself, and why just so often.
std::string interval_words(const json& status) {
  if (!status.contains("checkpointInterval") || !status["checkpointInterval"].is_object()) return "on demand";
  const json& interval = status["checkpointInterval"];
  const std::string every = "every " + human_ms(number_of(interval, "seconds") * 1000);
  if (!interval.contains("inputs")) return every;
  const json& inputs = interval["inputs"];
  const std::string hosts = fmt::format(
      "its hosts failed {:.0f} times in {} and are taken to fail every {}", number_of(inputs, "hostFailures"),
      human_ms(number_of(inputs, "watchedSeconds") * 1000), human_ms(number_of(inputs, "mtbfSeconds") * 1000));
  if (number_of(inputs, "checkpoints") == 0) return every + " (auto: nothing measured yet; " + hosts + ")";
  return fmt::format("{} (auto: a checkpoint costs {}: stall {}, commit {}; {})", every,
                     human_ms(number_of(inputs, "costMs")), human_ms(number_of(inputs, "stallMs")),
                     human_ms(number_of(inputs, "commitMs")), hosts);
}

std::string show_status(const json& status, const std::string&) {
  std::string text;
  for (const auto& [key, label] : {std::pair{"job", "job"},
                                   {"name", "name"},
                                   {"state", "state"},
                                   {"phase", "phase"},
                                   {"reason", "reason"},
                                   {"incarnation", "incarnation"},
                                   {"epoch", "epoch"},
                                   {"hosts", "hosts"},
                                   {"lastCheckpoint", "last checkpoint"},
                                   {"restarts", "restarts"},
                                   {"exitCode", "exit code"}}) {
    const auto value = cell(status, key);
    if (value != "-") text += fmt::format("{:<16} {}\n", label, value);
  }
  text += fmt::format("{:<16} {}\n", "checkpoints", interval_words(status));
  std::vector<std::vector<std::string>> rows;
  if (status.contains("ranks")) {
    for (const auto& rank : status["ranks"])
      rows.push_back({cell(rank, "rank"), cell(rank, "host"), cell(rank, "state"), cell(rank, "call"),
                      ms_cell(rank, "sinceMs"), cell(rank, "communicator"), count_cell(rank, "peers"),
                      count_cell(rank, "bytesInFlight")});
  }
  return rows.empty()
             ? text
             : text + "\n" +
                   table({"RANK", "HOST", "STATE", "CALL", "SINCE", "COMMUNICATOR", "PEERS", "IN FLIGHT"}, rows);
}

std::string bytes_cell(const json& row, const char* key) {
  return row.contains(key) && row[key].is_number() ? human_bytes(row[key].get<double>()) : "-";
}

std::string time_cell(const json& row, const char* key) {
  if (!row.contains(key) || !row[key].is_number()) return cell(row, key);
  return fmt::format("{:%F %T}", fmt::localtime(static_cast<std::time_t>(row[key].get<std::int64_t>())));
}

std::string show_checkpoints(const json& checkpoints, const std::string& name) {
  if (checkpoints.empty())
    return fmt::format("no checkpoints of {} yet; take one with: stillpoint checkpoint {}\n", name, name);
  std::vector<std::vector<std::string>> rows;
  for (const auto& row : checkpoints) {
    rows.push_back({cell(row, "epoch"), cell(row, "state"), time_cell(row, "time"), bytes_cell(row, "bytesRaw"),
                    bytes_cell(row, "bytesStored"), ms_cell(row, "stallMs"), cell(row, "level"), cell(row, "reason")});
  }
  return table({"EPOCH", "STATE", "TIME", "MEMORY+DISK", "STORED", "STALL", "LEVEL", "REASON"}, rows);
}

std::string show_hosts(const json& hosts, const std::string&) {
  if (hosts.empty()) return "no hosts\n";
  std::vector<std::vector<std::string>> rows;
  for (const auto& host : hosts) {
    rows.push_back({cell(host, "name"), cell(host, "state"), cell(host, "accel"), bytes_cell(host, "memoryFree"),
                    bytes_cell(host, "memory"), cell(host, "captureMode"), cell(host, "jobs")});
  }
  return table({"HOST", "STATE", "ACCEL", "MEMORY FREE", "OF", "CAPTURE IF NOT PRE-COPY", "JOBS"}, rows);
}

Show say(const char* what) {
  return [what](const json&, const std::string& name) { return fmt::format("{} {}\n", plain(name), what); };
}

}  // namespace

void add_job_commands(CLI::App& app, CommandContext& context) {
  add(
      app, context, "jobs", "All jobs", nullptr, [](const ApiClient& c, const auto&) { return c.get("/v1/jobs"); },
      show_jobs);
  add(
      app, context, "status", "One job, its hosts and what its ranks are doing", "JOB",
      [](const ApiClient& c, const auto& name) { return c.get(job_target(name) + "?ranks=1"); }, show_status);
  add(
      app, context, "checkpoints", "The checkpoints of a job", "JOB",
      [](const ApiClient& c, const auto& name) { return c.get(job_target(name) + "/checkpoints"); }, show_checkpoints);
  add(
      app, context, "stop", "End a job; its output and checkpoints stay", "JOB",
      [](const ApiClient& c, const auto& name) { return c.post(job_target(name) + "/stop", json::object(), kLong); },
      say("is stopped"));
  add(
      app, context, "rm", "Remove an ended job with its output and checkpoints", "JOB",
      [](const ApiClient& c, const auto& name) { return c.remove(job_target(name), kLong); }, say("is removed"));
}

void add_host_commands(CLI::App& app, CommandContext& context) {
  add(
      app, context, "hosts", "The hosts that run jobs", nullptr,
      [](const ApiClient& c, const auto&) { return c.get("/v1/hosts"); }, show_hosts);
  add(
      app, context, "cordon", "Take a host out of service for new guests", "HOST",
      [](const ApiClient& c, const auto& name) { return c.post(host_target(name) + "/cordon", json::object()); },
      say("takes no new guests"));
  add(
      app, context, "uncordon", "Put a host back into service", "HOST",
      [](const ApiClient& c, const auto& name) { return c.post(host_target(name) + "/uncordon", json::object()); },
      say("takes guests again"));
}

}  // namespace stillpoint::cli
