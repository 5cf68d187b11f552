// logs: the program's output as one consistent stream.
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

namespace stillpoint::cli {
namespace {

constexpr std::chrono::milliseconds kPoll{20'000};  // how long the coordinator holds a question that has no answer yet

struct Arguments {
  std::string job;
  bool follow = false;
};

// A piece of the output and what the coordinator said beside it.
struct Piece {
  std::string data;
  std::uint64_t length = 0;  // of the whole output now
  std::string state;         // of the job
  std::uint64_t incarnation = 0;
  bool cut_back = false;  // the output is shorter than what was asked for: length says by how much
};

std::optional<std::uint64_t> number_in(const HttpAnswer& answer, const char* header) {
  const auto found = answer.headers.find(header);
  if (found == answer.headers.end()) return std::nullopt;
  std::uint64_t value = 0;
  const auto& text = found->second;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || rest != text.data() + text.size()) return std::nullopt;
  return value;
}

Called<Piece> ask_piece(const ApiClient& client, const std::string& job, std::uint64_t offset,
                        std::chrono::milliseconds wait) {
  const auto target = fmt::format("/v1/jobs/{}/logs?offset={}&waitMs={}", url_segment(job), offset, wait.count());
  auto answer = client.ask("GET", target, "", kShort + wait);
  if (!answer) return answer.error();
  const auto length = number_in(*answer, "x-length");
  const auto incarnation = number_in(*answer, "x-incarnation").value_or(0);
  if (answer->status == 409 && length && *length < offset) return Piece{"", *length, "", incarnation, true};
  if (answer->status != 200) return failure_in(*answer, target);
  if (!length)
    return Failure{{ErrorKind::permanent, "ask", target,
                    "the coordinator's answer has no X-Length; do its version and this one agree?"}};
  const auto state = answer->headers.find("x-state");
  return Piece{std::move(answer->body), *length, state == answer->headers.end() ? "" : state->second, incarnation,
               false};
}

// Where the output was cut back to when the job's present incarnation was restored; nothing when it was not.
std::optional<std::uint64_t> cut_of(const ApiClient& client, const std::string& job) {
  const auto target = "/v1/jobs/" + url_segment(job);
  const auto status = client.get(target);
  const auto checkpoints = client.get(target + "/checkpoints");
  if (!status || !checkpoints || !status->is_object() || !status->contains("restoredFrom")) return std::nullopt;
  for (const auto& row : *checkpoints) {
    if (row["epoch"] == (*status)["restoredFrom"] && row.contains("outputOffset"))
      return row["outputOffset"].get<std::uint64_t>();
  }
  return std::nullopt;
}

// One reading of a job's output: the bytes in order, and where they go on after a restart.
class Reading {
 public:
  // Gets bytes and the offset of the first; false ends the reading. With no bytes: what is behind offset is void.
  using Take = std::function<bool(const std::string& data, std::uint64_t offset)>;

  Reading(CommandContext& context, const ApiClient& client, const Arguments& arguments, Take take)
      : context_(context), client_(client), arguments_(arguments), take_(std::move(take)) {}

  // To the end that the output has now, or with --follow to the end that it has when the job is final; gives the
  // job's state.
  Called<std::string> run() {
    Patience patience(context_);
    while (true) {
      const auto piece =
          ask_piece(client_, arguments_.job, offset_, arguments_.follow ? kPoll : std::chrono::milliseconds(0));
      if (!piece) {
        if (patience.try_again(piece.error())) continue;
        return piece.error();
      }
      patience.answered();
      if (const auto cut = cut_in(*piece)) {
        go_back(*cut);
        continue;
      }
      if (!take_(piece->data, offset_)) return piece->state;
      offset_ += piece->data.size();
      if (offset_ >= piece->length && (!arguments_.follow || is_over(piece->state))) return piece->state;
      // Bytes that are said to be there and do not come: the coordinator is broken, do not ask for ever.
      if (offset_ < piece->length && piece->data.empty()) {
        return Failure{{ErrorKind::permanent, "read", "output of " + arguments_.job,
                        "the coordinator gives less than it says it has"}};
      }
    }
  }

 private:
  // Where the reading has to go back to. Output that was cut back and has grown again beyond our offset shows only in
  // the incarnation.
  std::optional<std::uint64_t> cut_in(const Piece& piece) {
    const bool restarted = incarnation_ != 0 && piece.incarnation != incarnation_ && piece.state != "restarting";
    if (piece.cut_back || incarnation_ == 0 || restarted) incarnation_ = piece.incarnation;
    if (piece.cut_back) return piece.length;
    if (!restarted) return std::nullopt;
    const auto cut = cut_of(client_, arguments_.job);
    return cut && *cut < offset_ ? cut : std::nullopt;
  }

  void go_back(std::uint64_t offset) {
    note(context_, fmt::format("the job was restarted from a checkpoint: its output goes on from byte {}", offset));
    offset_ = offset;
    take_("", offset);
  }

  CommandContext& context_;
  const ApiClient& client_;
  const Arguments& arguments_;
  Take take_;
  std::uint64_t offset_ = 0;
  std::uint64_t incarnation_ = 0;  // 0: not known yet
};

int logs(CommandContext& context, const Arguments& arguments) {
  const auto client = connect(context);
  if (!client) return report(context, client.error());
  std::string whole;  // for --json
  const auto state = Reading(context, *client, arguments, [&](const std::string& data, std::uint64_t offset) {
                       if (!context.json) {
                         context.out << data << std::flush;
                       } else {
                         whole.resize(offset);
                         whole += data;
                       }
                       return context.out.good();  // not so when the reader went away: `| head`
                     }).run();
  if (!state) return report(context, state.error());
  if (context.json)
    print_json(context, {{"job", arguments.job}, {"state", *state}, {"length", whole.size()}, {"output", whole}});
  return kDone;
}

}  // namespace

void add_logs_command(CLI::App& app, CommandContext& context) {
  auto arguments = std::make_shared<Arguments>();
  auto* command =
      app.add_subcommand("logs", "The program's output: one stream, cut back to the checkpoint at a restart");
  command->add_option("JOB", arguments->job)->required();
  command->add_flag("-f,--follow", arguments->follow, "Go on until the job has ended");
  command->callback(
      [&context, arguments] { context.action = [&context, arguments] { return logs(context, *arguments); }; });
}

}  // namespace stillpoint::cli
