// What all commands of `stillpoint` share: the options that every command takes, exit codes, how a failure is told.
// Owned by run() for the length of one invocation; used by one thread.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <ostream>
#include <string>

#include "common/result.h"

namespace stillpoint::cli {

// Scripts rely on these (docs and `stillpoint --help`).
enum ExitCode : int { kDone = 0, kFailed = 1, kWrongUsage = 2, kNoCoordinator = 3, kNotFound = 4 };

// A command that did not work out: the error, and what the process exits with.
struct Failure {
  Error error;
  int exit_code = kFailed;
  bool operator==(const Failure&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Failure& failure);
[[noreturn]] void throw_exception_from_error(const Failure& failure, const boost::source_location& where);
template <class T>
using Called = boost::system::result<T, Failure>;

struct CommandContext {
  bool json = false;      // --json: one JSON document on out and nothing else there
  std::string server;     // --server, or empty
  std::ostream& out;      // what was asked for
  std::ostream& err;      // everything else: errors, notes, progress
  bool terminal = false;  // err is a terminal: progress may be drawn
  // What the chosen command does, set by its CLI11 callback and run after parsing; gives the exit code.
  std::function<int()> action;
};

// Prints document on out, the one JSON document of a command under --json.
void print_json(CommandContext& context, const nlohmann::json& document);

// Tells failure on err and, under --json, as {"error":{"kind","message"}} on out. Gives the exit code.
int report(CommandContext& context, const Failure& failure);
int report(CommandContext& context, const Error& error);  // with exit code 1

// A remark on err that is no failure.
void note(CommandContext& context, const std::string& text);

}  // namespace stillpoint::cli
