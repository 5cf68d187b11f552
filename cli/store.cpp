// verify: what administrators do with stored checkpoints.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/api_client.h"
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/progress.h"
#include "cli/text.h"

namespace stillpoint::cli {
namespace {

using nlohmann::json;

constexpr std::chrono::hours kReading{24};  // of all checkpoints of a job

struct VerifyArguments {
  std::string job;
  std::optional<std::uint64_t> epoch;
};

double number(const json& document, const char* key) {
  return document.contains(key) && document[key].is_number() ? document[key].get<double>() : 0;
}

json list(const json& document, const char* key) {
  const auto found = document.find(key);
  return found != document.end() && found->is_array() ? *found : json::array();
}

// A row for each problem; the epochs that have one.
std::string show_problems(const json& epochs) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& epoch : epochs)
    for (const auto& problem : list(epoch, "problems"))
      rows.push_back({cell(epoch, "epoch"), cell(epoch, "state"),
                      plain(problem.is_string() ? problem.get<std::string>() : problem.dump())});
  return table({"EPOCH", "STATE", "WHAT"}, rows);
}

// What to do, or nothing when all is well.
std::string advice(const json& answer, const std::string& job) {
  bool damaged = false, unchecked = false;
  for (const auto& epoch : list(answer, "epochs")) {
    damaged = damaged || cell(epoch, "state") == "damaged";
    unchecked = unchecked || cell(epoch, "state") == "unchecked";
  }
  std::string text;
  if (damaged)
    text = fmt::format(
        "no restart takes the damaged ones: put back what is damaged from a copy and verify again, or take a new "
        "checkpoint: stillpoint checkpoint {}",
        plain(job));
  if (unchecked)
    text += fmt::format("{}nothing is known of those that could not be checked: verify again when their hosts are up",
                        damaged ? "; " : "");
  return text;
}

int verify(CommandContext& context, const VerifyArguments& arguments) {
  const auto client = connect(context);
  if (!client) return report(context, client.error());
  json body = json::object();
  if (arguments.epoch) body["epoch"] = *arguments.epoch;
  const InterruptNote interrupted(
      "\nstillpoint: no longer waiting; the reading goes on, and what is damaged is marked\n");
  const auto answer = client->post("/v1/jobs/" + url_segment(arguments.job) + "/verify", body, kReading);
  if (!answer) return report(context, answer.error());
  const std::string todo = advice(*answer, arguments.job);
  const json epochs = list(*answer, "epochs");
  double bytes = 0;
  for (const auto& epoch : epochs) bytes += number(epoch, "bytes");
  if (context.json) print_json(context, *answer);
  else if (!todo.empty()) context.out << show_problems(epochs) << std::flush;
  else if (epochs.empty()) context.out << plain(arguments.job) << " has no checkpoint to verify\n" << std::flush;
  else
    context.out << fmt::format("{} of {} whole, {} read\n",
                               epochs.size() == 1 ? "checkpoint " + cell(epochs[0], "epoch")
                                                  : fmt::format("all {} checkpoints", epochs.size()),
                               plain(arguments.job) + (epochs.size() == 1 ? " is" : " are"), human_bytes(bytes))
                << std::flush;
  if (todo.empty()) return kDone;
  note(context, todo);
  return kFailed;
}

}  // namespace

void add_store_commands(CLI::App& app, CommandContext& context) {
  auto check = std::make_shared<VerifyArguments>();
  auto* command = app.add_subcommand("verify", "Read a job's checkpoints back and check every hash");
  command->add_option("JOB", check->job)->required();
  command->add_option("EPOCH", check->epoch, "This one only");
  command->callback([&context, check] { context.action = [&context, check] { return verify(context, *check); }; });
}

}  // namespace stillpoint::cli
