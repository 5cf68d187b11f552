// catalog backup: the coordinator's memory, copied while it works. catalog rebuild: what was lost of it, from the
// hosts.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/api_client.h"
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/text.h"

namespace stillpoint::cli {
namespace {

using nlohmann::json;

int backup(CommandContext& context, const std::string& file) {
  const auto client = connect(context);
  if (!client) return report(context, client.error());
  std::error_code failed;
  const auto path = std::filesystem::absolute(file, failed);  // the coordinator writes it, on its machine
  const auto answer = client->post("/v1/catalog/backup", {{"file", path.string()}}, kLong);
  if (!answer) return report(context, answer.error());
  if (context.json) print_json(context, *answer);
  else
    context.out << fmt::format("the catalog is in {}, {}, checked\n", plain(path.string()),
                               human_bytes(answer->value("bytes", 0.0)))
                << std::flush;
  return kDone;
}

std::string numbers_in(const json& list) {
  std::string text;
  for (const auto& number : list) text += (text.empty() ? "" : ", ") + plain(number.dump());
  return text;
}

int rebuild(CommandContext& context) {
  const auto client = connect(context);
  if (!client) return report(context, client.error());
  const auto answer = client->post("/v1/catalog/rebuild", json::object(), kLong);
  if (!answer) return report(context, answer.error());
  const json jobs = answer->value("jobs", json::array()), problems = answer->value("problems", json::array());
  for (const auto& problem : problems)
    context.err << fmt::format("stillpoint: {}\n",
                               plain(problem.is_string() ? problem.get<std::string>() : problem.dump()));
  const int code = problems.empty() ? kDone : kFailed;
  if (context.json) {
    print_json(context, *answer);
    return code;
  }
  std::vector<std::vector<std::string>> rows;
  for (const auto& job : jobs)
    rows.push_back({cell(job, "job"), cell(job, "name"), numbers_in(job.value("checkpoints", json::array()))});
  if (!rows.empty())
    context.out << table({"JOB", "NAME", "CHECKPOINTS"}, rows) << "bring each back with: stillpoint restart JOB\n";
  else if (problems.empty())
    context.out << "the hosts that are up have no record of a checkpoint that the catalog lost\n";
  else context.out << "nothing was taken in; see above why there may be more\n";
  context.out << std::flush;
  return code;
}

}  // namespace

void add_catalog_commands(CLI::App& app, CommandContext& context) {
  auto* group = app.add_subcommand("catalog", "The coordinator's catalog of jobs and checkpoints");
  group->require_subcommand(1);
  auto file = std::make_shared<std::string>();
  auto* command = group->add_subcommand("backup", "Copy it, while the coordinator works, to a new file beside it");
  command->add_option("FILE", *file, "On the coordinator's machine")->required();
  command->callback([&context, file] { context.action = [&context, file] { return backup(context, *file); }; });
  group->add_subcommand("rebuild", "Take in the checkpoints that hosts have records of and the catalog has lost")
      ->callback([&context] { context.action = [&context] { return rebuild(context); }; });
}

}  // namespace stillpoint::cli
