// events: the history of a job, of a host, of the site.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <functional>
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

constexpr std::chrono::milliseconds kPoll{20'000};  // how long the coordinator holds a question that has no answer yet
constexpr std::size_t kPage = 1'000;

struct Arguments {
  std::string job;
  std::string host;
  bool follow = false;
  std::optional<std::uint32_t> last;
};

struct Page {
  json lines;
  std::uint64_t newest = 0;  // id of the newest line of all
  std::string job;           // its id
  std::string state;         // of the job
};

bool is_end(const std::string& state) { return is_over(state) || state == "removed"; }

Called<Page> page_in(const HttpAnswer& answer, const std::string& target) {
  if (answer.status != 200) return failure_in(answer, target);
  Page page;
  page.lines = json::parse(answer.body, nullptr, false);
  const auto newest = answer.headers.find("x-newest"), state = answer.headers.find("x-state"),
             job = answer.headers.find("x-job");
  if (!page.lines.is_array() || newest == answer.headers.end())
    return Failure{{ErrorKind::permanent, "ask", target,
                    "the coordinator's answer is no page of history; do its version and this one agree?"}};
  const auto& text = newest->second;
  std::from_chars(text.data(), text.data() + text.size(), page.newest);
  if (state != answer.headers.end()) page.state = state->second;
  if (job != answer.headers.end()) page.job = job->second;
  return page;
}

// One reading of the history, each line once, in order.
class Reading {
 public:
  using Take = std::function<bool(const json& line)>;  // false ends the reading

  Reading(CommandContext& context, const ApiClient& client, const Arguments& arguments, Take take)
      : context_(context), client_(client), arguments_(arguments), job_(arguments.job), take_(std::move(take)) {}

  Called<void> run() {
    Patience patience(context_);
    for (bool first = true;;) {
      const auto page = ask(first);
      if (!page) {
        if (patience.try_again(page.error())) continue;
        return page.error();
      }
      patience.answered();
      // From now on by its id: once it is removed its name finds nothing, or another one.
      if (!job_.empty() && !page->job.empty()) job_ = page->job;
      for (const json& line : page->lines) {
        after_ = std::max(after_, line.at("id").get<std::uint64_t>());
        if (!take_(line)) return {};
      }
      if (first && arguments_.last && page->lines.empty()) after_ = page->newest;
      const bool all = page->lines.size() < kPage || (first && arguments_.last);
      first = false;
      if (!all) continue;
      if (!arguments_.follow || (!job_.empty() && is_end(page->state))) return {};
      if (after_ > page->newest) {
        note(context_, "the coordinator's catalog was put back from an older copy; what comes from now on follows");
        after_ = page->newest;
      }
    }
  }

 private:
  Called<Page> ask(bool first) const {
    const std::string path = job_.empty() ? "/v1/events" : "/v1/jobs/" + url_segment(job_) + "/events";
    const auto wait = arguments_.follow && !first ? kPoll : std::chrono::milliseconds(0);
    std::string target = fmt::format("{}?after={}&limit={}&waitMs={}", path, after_, kPage, wait.count());
    if (first && arguments_.last) target += fmt::format("&last={}", *arguments_.last);
    if (!arguments_.host.empty()) target += "&host=" + url_segment(arguments_.host);
    const auto answer = client_.ask("GET", target, "", kShort + wait);
    if (!answer) return answer.error();
    return page_in(*answer, target);
  }

  CommandContext& context_;
  const ApiClient& client_;
  const Arguments& arguments_;
  std::string job_;  // empty: the site's history
  Take take_;
  std::uint64_t after_ = 0;  // id of the last line that was taken
};

constexpr const char* kLine = "{:<20}  {:<6}  {:>5}  {:<10}  {}\n";

std::string text_of(const json& line) {
  const auto detail = cell(line, "detail");
  return fmt::format(kLine, cell(line, "time"), cell(line, "job"), cell(line, "epoch"), cell(line, "host"),
                     cell(line, "what") + (detail == "-" ? "" : ": " + detail));
}

int events(CommandContext& context, const Arguments& arguments) {
  const auto client = connect(context);
  if (!client) return report(context, client.error());
  json all = json::array();
  bool any = false;
  const auto done = Reading(context, *client, arguments, [&](const json& line) {
                      if (context.json && !arguments.follow) {
                        all.push_back(line);
                      } else if (context.json) {
                        context.out << line.dump() << std::endl;
                      } else {
                        if (!any) context.out << fmt::format(kLine, "TIME", "JOB", "EPOCH", "HOST", "EVENT");
                        context.out << text_of(line) << std::flush;
                      }
                      any = true;
                      return context.out.good();  // not so when the reader went away: `| head`
                    }).run();
  if (!done) return report(context, done.error());
  if (context.json && !arguments.follow) print_json(context, all);
  return kDone;
}

}  // namespace

void add_events_command(CLI::App& app, CommandContext& context) {
  auto arguments = std::make_shared<Arguments>();
  auto* command =
      app.add_subcommand("events", "The history of a job, or of all: what became of jobs, epochs and hosts");
  command->add_option("JOB", arguments->job, "Also the id of one that was removed");
  command->add_flag("-f,--follow", arguments->follow,
                    "Go on until the job has ended; with --json one document to a line");
  command->add_option("--host", arguments->host, "Only what names this host");
  command->add_option("-n,--last", arguments->last, "Only the newest so many lines")->check(CLI::Range(1u, 1'000u));
  command->callback(
      [&context, arguments] { context.action = [&context, arguments] { return events(context, *arguments); }; });
}

}  // namespace stillpoint::cli
