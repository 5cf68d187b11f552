// checkpoint and restart: long questions with progress on a terminal.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
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

const std::vector<std::string> kPhases{"examine", "prepare", "close",   "drain",
                                       "freeze",  "capture", "release", "upload"};

struct CheckpointArguments {
  std::string job;
  std::optional<std::uint32_t> control_gap_ms;
};

struct RestartArguments {
  std::string job;
  std::optional<std::uint64_t> from;
  std::vector<std::string> hosts;
  bool skip_link_check = false;
};

double number(const json& document, const char* key) {
  return document.contains(key) && document[key].is_number() ? document[key].get<double>() : 0;
}

// Asks while a bar is drawn.
Called<json> ask_long(CommandContext& context, const std::string& job, const std::string& verb, const json& body,
                      std::vector<std::string> phases, const char* interrupted) {
  const auto client = connect(context);
  if (!client) return client.error();
  const InterruptNote note(interrupted);
  const Progress progress(context, *client, job, std::move(phases));
  return client->post("/v1/jobs/" + url_segment(job) + "/" + verb, body, kLong);
}

// While another checkpoint is under way this one waits for its turn, if the manifest lets it: said before it is asked.
void say_if_waiting(CommandContext& context, const std::string& job) {
  const auto client = connect(context);
  if (!client) return;  // asking will tell
  const auto status = client->get("/v1/jobs/" + url_segment(job));
  if (!status || cell(*status, "whileUploading") != "wait" || cell(*status, "state") == "restarting") return;
  const std::string phase = cell(*status, "phase");
  if (std::ranges::find(kPhases, phase) == kPhases.end()) return;
  note(context, fmt::format("checkpoint {} is still under way ({}); this one waits for its turn",
                            cell(*status, "epoch"), phase));
}

int checkpoint(CommandContext& context, const CheckpointArguments& arguments) {
  say_if_waiting(context, arguments.job);
  json body = json::object();
  if (arguments.control_gap_ms) body["testUncoordinatedGapMs"] = *arguments.control_gap_ms;
  const auto answer =
      ask_long(context, arguments.job, "checkpoint", body, kPhases,
               "\nstillpoint: no longer waiting; the checkpoint goes on: `stillpoint checkpoints` shows how it ends\n");
  if (!answer) return report(context, answer.error());
  if (context.json) {
    print_json(context, *answer);
  } else {
    context.out << fmt::format(
                       "checkpoint {} of {} is committed: the job stood still for {}, {} stored for {} of memory and "
                       "disk, {} in all\n",
                       cell(*answer, "epoch"), cell(*answer, "job"), human_ms(number(*answer, "stallMs")),
                       human_bytes(number(*answer, "bytesStored")), human_bytes(number(*answer, "bytesRaw")),
                       human_ms(number(*answer, "commitMs")))
                << std::flush;
  }
  return kDone;
}

int restart(CommandContext& context, const RestartArguments& arguments) {
  json body = json::object();
  if (arguments.from) body["from"] = *arguments.from;
  if (!arguments.hosts.empty()) body["hosts"] = arguments.hosts;
  if (arguments.skip_link_check) body["testSkipLinkCheck"] = true;
  const auto answer = ask_long(
      context, arguments.job, "restart", body, {"fence", "place", "restore", "resume", "links", "truncate", "release"},
      "\nstillpoint: no longer waiting; the restart goes on: `stillpoint status` shows how it ends\n");
  if (!answer) return report(context, answer.error());
  if (context.json) {
    print_json(context, *answer);
  } else {
    if (const auto passed = cell(*answer, "reason"); passed != "-") note(context, passed);
    context.out << fmt::format("{} runs again from checkpoint {}, after {}\n", cell(*answer, "job"),
                               cell(*answer, "epoch"), human_ms(number(*answer, "restartMs")))
                << std::flush;
  }
  return kDone;
}

}  // namespace

void add_checkpoint_commands(CLI::App& app, CommandContext& context) {
  auto take = std::make_shared<CheckpointArguments>();
  auto* command = app.add_subcommand("checkpoint", "Take a checkpoint of a running job and wait for its commit");
  command->add_option("JOB", take->job)->required();
  command
      ->add_option("--test-uncoordinated-gap-ms", take->control_gap_ms,
                   "Test only: no quiescing, hosts captured one after another, so far apart")
      ->group("");
  command->callback([&context, take] { context.action = [&context, take] { return checkpoint(context, *take); }; });

  auto back = std::make_shared<RestartArguments>();
  command = app.add_subcommand("restart", "Bring a job back from a checkpoint and wait until it runs");
  command->add_option("JOB", back->job)->required();
  command->add_option("--from", back->from, "The checkpoint's epoch, instead of the last one");
  command->add_option("--hosts", back->hosts, "The hosts to use, separated by commas")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_flag("--test-skip-linkcheck", back->skip_link_check, "Test only: go on although the links do not match")
      ->group("");
  command->callback([&context, back] { context.action = [&context, back] { return restart(context, *back); }; });
}

}  // namespace stillpoint::cli
