// wait: for the end of a job; then brings its outputs to where it was submitted.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/api_client.h"
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/follow.h"
#include "cli/text.h"

namespace stillpoint::cli {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPoll{20'000};

struct Arguments {
  std::string job;
  std::optional<double> timeout;  // seconds
  bool no_outputs = false;
};

// The status at the end, or when the time is over.
Called<json> wait_for_end(CommandContext& context, const ApiClient& client, const Arguments& arguments) {
  Patience patience(context);
  // No timeout: the end of time.
  auto end = Clock::time_point::max();
  if (arguments.timeout)
    end = Clock::now() + std::chrono::milliseconds(static_cast<std::int64_t>(*arguments.timeout * 1000));
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now());
    const auto slice = std::clamp(left, std::chrono::milliseconds(0), kPoll);
    const auto status = client.get(
        fmt::format("/v1/jobs/{}/wait?timeoutMs={}", url_segment(arguments.job), slice.count()), kShort + slice);
    if (!status) {
      if (Clock::now() < end && patience.try_again(status.error())) continue;
      return status.error();
    }
    patience.answered();
    if (is_over(status->value("state", "")) || Clock::now() >= end) return *status;
  }
}

bool stays_below(const std::filesystem::path& name) {
  if (name.empty() || name.is_absolute()) return false;
  for (const auto& part : name) {
    if (part == "..") return false;
  }
  return true;
}

// One output to its place, whole or not at all.
Called<void> fetch(const ApiClient& client, const std::string& job, const std::string& name,
                   const std::filesystem::path& target) {
  if (!stays_below(name))
    return Failure{{ErrorKind::refused, "copy", plain(name), "the name leads out of the submit directory"}};
  std::error_code code;
  std::filesystem::create_directories(target.parent_path(), code);
  auto part = target;
  part += ".stillpoint-part";
  std::filesystem::remove(part, code);  // of a `wait` that was interrupted
  const auto copied = client.download(fmt::format("/v1/jobs/{}/outputs/{}", url_segment(job), url_path(name)), part);
  if (!copied) return copied.error();
  std::filesystem::rename(part, target, code);
  if (!code) return {};
  const auto why = code.message();
  std::filesystem::remove(part, code);
  return Failure{{ErrorKind::permanent, "write", target.string(), why}};
}

// Where the outputs went. What cannot be copied is told; the job's own exit code is not changed by it.
json copy_outputs(CommandContext& context, const ApiClient& client, const json& status) {
  json copied = json::array();
  const auto job = status.value("job", "");
  const auto directory = std::filesystem::path(status.value("submitDirectory", ""));
  const auto outputs = client.get("/v1/jobs/" + url_segment(job) + "/outputs");
  if (!outputs) {
    note(context, "the outputs were not copied: " + outputs.error().error.message());
    return copied;
  }
  for (const auto& output : *outputs) {
    const auto name = output.value("name", "");
    const auto target = directory / name;
    if (directory.empty()) {
      note(context, fmt::format("output {} was not copied: the job does not say where it was submitted", plain(name)));
    } else if (const auto fetched = fetch(client, job, name, target); !fetched) {
      note(context, fmt::format("output {} was not copied: {}", plain(name), fetched.error().error.message()));
    } else {
      copied.push_back({{"name", name}, {"path", target.string()}});
      if (!context.json) context.out << "output " << plain(target.string()) << "\n";
    }
  }
  return copied;
}

// The program's own exit code; 1 for a job that did not complete and has none (or, however that came, 0).
int exit_code_of(const json& status) {
  const bool completed = status.value("state", "") == "completed";
  if (!status.contains("exitCode") || !status["exitCode"].is_number_integer()) return completed ? kDone : kFailed;
  const auto code = status["exitCode"].get<std::int64_t>();
  if (code == 0) return completed ? kDone : kFailed;
  return code > 0 && code < 256 ? static_cast<int>(code) : static_cast<int>(kFailed);
}

int wait(CommandContext& context, const Arguments& arguments) {
  const auto client = connect(context);
  if (!client) return report(context, client.error());
  const auto status = wait_for_end(context, *client, arguments);
  if (!status) return report(context, status.error());
  const auto state = status->value("state", "");
  json document = {{"state", state}, {"exitCode", status->contains("exitCode") ? (*status)["exitCode"] : json()}};
  if (!is_over(state)) {
    note(context,
         fmt::format("{} is still {} after {} s; it goes on", cell(*status, "job"), state, *arguments.timeout));
    if (context.json) print_json(context, document);
    return kFailed;
  }
  if (!arguments.no_outputs) document["outputs"] = copy_outputs(context, *client, *status);
  if (context.json) {
    print_json(context, document);
  } else {
    const auto code = cell(*status, "exitCode");
    context.out << cell(*status, "job") << " " << state << (code == "-" ? "" : ", exit code " + code) << std::endl;
  }
  if (state != "completed" || !status->value("reason", "").empty())
    note(context, fmt::format("{} {}: {}", cell(*status, "job"), state, cell(*status, "reason")));
  return exit_code_of(*status);
}

}  // namespace

void add_wait_command(CLI::App& app, CommandContext& context) {
  auto arguments = std::make_shared<Arguments>();
  auto* command =
      app.add_subcommand("wait", "Wait for the end of a job, copy its outputs back, exit with its exit code");
  command->add_option("JOB", arguments->job)->required();
  command
      ->add_option("--timeout", arguments->timeout, "Give up after so many seconds, with exit code 1; the job goes on")
      ->check(CLI::Range(0.0, 1e9));
  command->add_flag("--no-outputs", arguments->no_outputs, "Do not copy the outputs");
  command->callback(
      [&context, arguments] { context.action = [&context, arguments] { return wait(context, *arguments); }; });
}

}  // namespace stillpoint::cli
