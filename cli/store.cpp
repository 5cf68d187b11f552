// verify, prune, store: what administrators do with stored checkpoints.
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

struct PruneArguments {
  std::string job;
  std::optional<std::uint32_t> keep;
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

// A line for each image that was damaged and is whole again.
std::string show_mended(const json& epochs) {
  std::string text;
  for (const auto& epoch : epochs)
    for (const auto& what : list(epoch, "mended"))
      text += fmt::format("checkpoint {}: {}\n", cell(epoch, "epoch"),
                          plain(what.is_string() ? what.get<std::string>() : what.dump()));
  return text;
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
    text += fmt::format(
        "{}the unchecked ones are as they were: verify again when their hosts are up and the S3 store can be reached",
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
  if (!context.json) context.out << show_mended(epochs) << std::flush;
  if (todo.empty()) return kDone;
  note(context, todo);
  return kFailed;
}

int prune(CommandContext& context, const PruneArguments& arguments) {
  const auto client = connect(context);
  if (!client) return report(context, client.error());
  json body = json::object();
  if (arguments.keep) body["keep"] = *arguments.keep;
  const auto answer = client->post("/v1/jobs/" + url_segment(arguments.job) + "/prune", body, kLong);
  if (!answer) return report(context, answer.error());
  const std::string job = plain(arguments.job);
  if (context.json) {
    print_json(context, *answer);
  } else if (list(*answer, "pruned").empty()) {
    context.out << fmt::format("nothing to prune: {} has checkpoints {}\n", job, cell(*answer, "kept")) << std::flush;
  } else {
    const double freed = number(*answer, "freedBytes");
    context.out << fmt::format("pruned checkpoints {} of {}, kept {}{}\n", cell(*answer, "pruned"), job,
                               cell(*answer, "kept"), freed > 0 ? ", " + human_bytes(freed) + " freed" : "")
                << std::flush;
  }
  return kDone;
}

std::string bytes_cell(const json& row, const char* key) {
  return row.contains(key) && row[key].is_number() ? human_bytes(row[key].get<double>()) : "-";
}

std::string show_store(const json& store) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& host : list(store, "hosts"))
    rows.push_back({cell(host, "name"), cell(host, "state"), cell(host, "packs"), bytes_cell(host, "bytes"),
                    bytes_cell(host, "freeBytes"), bytes_cell(host, "totalBytes"), bytes_cell(host, "reserveBytes")});
  std::string text = table({"HOST", "STATE", "PACKS", "STORED", "FREE", "OF", "RESERVE"}, rows);
  rows.clear();
  for (const auto& job : list(store, "jobs"))
    rows.push_back({cell(job, "job"), cell(job, "name"), cell(job, "images"), bytes_cell(job, "bytesRaw"),
                    bytes_cell(job, "bytesStored")});
  if (!rows.empty()) text += "\n" + table({"JOB", "NAME", "IMAGES", "MEMORY+DISK", "STORED"}, rows);
  if (number(store, "deduplication") > 0)
    text += fmt::format("\neach page is stored once for {:.1f} times that it occurs", number(store, "deduplication"));
  if (number(store, "compression") > 0) text += fmt::format(", in 1/{:.1f} of its size", number(store, "compression"));
  return text + (text.ends_with('\n') ? "" : "\n");
}

int store(CommandContext& context) {
  const auto client = connect(context);
  if (!client) return report(context, client.error());
  const auto answer = client->get("/v1/store");
  if (!answer) return report(context, answer.error());
  if (context.json) print_json(context, *answer);
  else context.out << show_store(*answer) << std::flush;
  return kDone;
}

}  // namespace

void add_store_commands(CLI::App& app, CommandContext& context) {
  auto check = std::make_shared<VerifyArguments>();
  auto* command = app.add_subcommand("verify", "Read a job's checkpoints back and check every hash");
  command->add_option("JOB", check->job)->required();
  command->add_option("EPOCH", check->epoch, "This one only");
  command->callback([&context, check] { context.action = [&context, check] { return verify(context, *check); }; });

  auto old = std::make_shared<PruneArguments>();
  command = app.add_subcommand("prune", "Delete a job's oldest checkpoints");
  command->add_option("JOB", old->job)->required();
  command->add_option("--keep", old->keep, "So many stay, the newest; as many as the manifest says if not given")
      ->check(CLI::PositiveNumber);
  command->callback([&context, old] { context.action = [&context, old] { return prune(context, *old); }; });

  command = app.add_subcommand("store", "What the checkpoints take, by host and by job");
  command->callback([&context] { context.action = [&context] { return store(context); }; });
}

}  // namespace stillpoint::cli
