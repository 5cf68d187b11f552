// logs: the program's output as one consistent stream.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
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
  bool cut_back = false;     // the output is shorter than what was asked for: length says by how much
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
  if (answer->status == 409 && length && *length < offset) return Piece{"", *length, "", true};
  if (answer->status != 200) return failure_in(*answer, target);
  if (!length)
    return Failure{{ErrorKind::permanent, "ask", target,
                    "the coordinator's answer has no X-Length; do its version and this one agree?"}};
  const auto state = answer->headers.find("x-state");
  return Piece{std::move(answer->body), *length, state == answer->headers.end() ? "" : state->second, false};
}

// Reads to the end that the stream has now, or with follow to the end that it has when the job is final. take() gets
// the bytes in order; false from it ends the reading. Gives the last state seen.
template <class Take>
Called<Piece> read_stream(CommandContext& context, const ApiClient& client, const Arguments& arguments,
                          std::uint64_t& offset, Take take) {
  Patience patience(context);
  while (true) {
    const auto piece =
        ask_piece(client, arguments.job, offset, arguments.follow ? kPoll : std::chrono::milliseconds(0));
    if (!piece) {
      if (patience.try_again(piece.error())) continue;
      return piece.error();
    }
    patience.answered();
    if (piece->cut_back) {
      note(context,
           fmt::format("the job was restarted from a checkpoint: its output goes on from byte {}", piece->length));
      take("", piece->length);
      offset = piece->length;
      continue;
    }
    if (!take(piece->data, offset)) return *piece;
    offset += piece->data.size();
    const bool at_end = offset >= piece->length;
    if (at_end && (!arguments.follow || is_final(piece->state))) return *piece;
    // Bytes that are said to be there and do not come: the coordinator is broken, do not ask for ever.
    if (!at_end && piece->data.empty())
      return Failure{
          {ErrorKind::permanent, "read", arguments.job, "the coordinator gives less output than it says it has"}};
  }
}

int logs(CommandContext& context, const Arguments& arguments) {
  const auto client = connect(context);
  if (!client) return report(context, client.error());
  std::uint64_t offset = 0;
  if (context.json) {
    std::string output;
    const auto end = read_stream(context, *client, arguments, offset, [&](const std::string& data, std::uint64_t at) {
      output.resize(at);
      output += data;
      return true;
    });
    if (!end) return report(context, end.error());
    print_json(
        context,
        {{"job", arguments.job}, {"state", end->state}, {"offset", 0}, {"length", output.size()}, {"output", output}});
    return kDone;
  }
  const auto end = read_stream(context, *client, arguments, offset, [&](const std::string& data, std::uint64_t) {
    context.out << data << std::flush;
    return context.out.good();  // not so when the reader went away: `| head`
  });
  return end ? static_cast<int>(kDone) : report(context, end.error());
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
