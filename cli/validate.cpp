// validate and submit: both check the manifest, all errors at once; submit then sends it with its input files.
#include <fmt/format.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>

#include "cli/api_client.h"
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/text.h"
#include "jobs/manifest.h"
#include "jobs/spec_json.h"

namespace stillpoint::cli {
namespace {

using nlohmann::json;

struct Arguments {
  std::string file;
  std::string directory;  // submit: where outputs go
};

// The hosts of the coordinator, where there is one: what a job may ask for depends on them. Without one the manifest is
// checked by itself.
std::vector<jobs::HostFigures> ask_hosts(const CommandContext& context) {
  std::vector<jobs::HostFigures> hosts;
  const auto client = connect(context);
  if (!client) return hosts;
  const auto answer = client->get("/v1/hosts", std::chrono::seconds(5));
  if (!answer || !answer->is_array()) return hosts;
  for (const auto& host : *answer) {
    if (host.is_object() && host.contains("name") && host["name"].is_string() && host.contains("memory") &&
        host["memory"].is_number()) {
      hosts.push_back({host["name"].get<std::string>(), host["memory"].get<std::uint64_t>()});
    }
  }
  return hosts;
}

// Tells every problem; gives the exit code.
int report_problems(CommandContext& context, const std::string& file, const std::vector<jobs::Problem>& problems) {
  json errors = json::array();
  for (const auto& problem : problems) {
    context.err << jobs::format_problem(file, problem) << "\n";
    errors.push_back(
        {{"file", file}, {"line", problem.mark.line}, {"column", problem.mark.column}, {"message", problem.what}});
  }
  context.err << std::flush;
  if (context.json) print_json(context, {{"valid", false}, {"errors", errors}});
  return kFailed;
}

std::string summary(const jobs::Manifest& manifest) {
  const auto& layout = manifest.mpi.ranks_per_guest;
  const auto ranks = std::accumulate(layout.begin(), layout.end(), std::uint64_t{0});
  return fmt::format("{} rank{} on {} guest{} of {}", ranks, ranks == 1 ? "" : "s", layout.size(),
                     layout.size() == 1 ? "" : "s", human_bytes(static_cast<double>(manifest.guests.memory_bytes)));
}

int validate(CommandContext& context, const Arguments& arguments) {
  const auto checked = jobs::check_manifest(arguments.file, ask_hosts(context));
  if (!checked.parsed.ok()) return report_problems(context, arguments.file, checked.parsed.problems);
  if (context.json) {
    print_json(context, {{"valid", true}, {"errors", json::array()}});
  } else {
    context.out << arguments.file << ": no errors: " << summary(checked.parsed.manifest) << std::endl;
  }
  return kDone;
}

// Sends the input files into a new spool; gives its id, which is empty when there are none.
Called<std::string> upload_files(const ApiClient& client, const jobs::Manifest& manifest,
                                 const std::filesystem::path& directory) {
  if (manifest.mpi.files.empty()) return std::string();
  const auto spool = client.post("/v1/spool", json::object());
  if (!spool) return spool.error();
  const auto id = spool->value("spool", "");
  for (const auto& name : manifest.mpi.files) {
    const auto path = directory / name;
    struct stat figures {};
    if (::stat(path.c_str(), &figures) != 0) return Failure{errno_error("read", path.string(), errno)};
    const auto sent =
        client.upload(fmt::format("/v1/spool/{}/{}", url_segment(id), url_path(name)), path, figures.st_mode & 0777u);
    if (!sent) return sent.error();
  }
  return id;
}

Called<json> send_job(const ApiClient& client, const jobs::Checked& checked, const std::filesystem::path& directory,
                      const std::string& outputs_to) {
  const auto& manifest = checked.parsed.manifest;
  const auto spool = upload_files(client, manifest, directory);
  if (!spool) return spool.error();
  return client.post("/v1/jobs", {{"spec", jobs::spec_json(manifest, directory)},
                                  {"manifest", checked.text},
                                  {"spool", *spool},
                                  {"submitDirectory", outputs_to}});
}

int submit(CommandContext& context, const Arguments& arguments) {
  const auto checked = jobs::check_manifest(arguments.file, ask_hosts(context));
  if (!checked.parsed.ok()) return report_problems(context, arguments.file, checked.parsed.problems);
  const auto client = connect(context);
  if (!client) return report(context, client.error());
  std::error_code code;
  const auto directory = std::filesystem::absolute(arguments.file, code).parent_path();
  const auto outputs_to =
      arguments.directory.empty() ? directory : std::filesystem::absolute(arguments.directory, code);
  const auto answer = send_job(*client, checked, directory, outputs_to.lexically_normal().string());
  if (!answer) return report(context, answer.error());
  if (context.json) {
    print_json(context, *answer);
  } else {
    const auto job = cell(*answer, "job");
    context.out << fmt::format("{} ({}) is submitted: {}\nfollow it with: stillpoint logs -f {}", job,
                               checked.parsed.manifest.name, summary(checked.parsed.manifest), job)
                << std::endl;
  }
  return kDone;
}

}  // namespace

void add_validate_command(CLI::App& app, CommandContext& context) {
  auto arguments = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("validate", "Check a job manifest: every error at once, with line and column");
  command->add_option("FILE", arguments->file, "The manifest")->required();
  command->callback(
      [&context, arguments] { context.action = [&context, arguments] { return validate(context, *arguments); }; });
}

void add_submit_command(CLI::App& app, CommandContext& context) {
  auto arguments = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("submit", "Start a job from its manifest");
  command->add_option("FILE", arguments->file, "The manifest")->required();
  command->add_option("--directory", arguments->directory,
                      "Where `wait` puts the job's outputs, instead of beside the manifest");
  command->callback(
      [&context, arguments] { context.action = [&context, arguments] { return submit(context, *arguments); }; });
}

}  // namespace stillpoint::cli
