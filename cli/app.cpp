#include "cli/app.h"

#include <poll.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "cli/command.h"
#include "cli/commands.h"
#ifdef STILLPOINT_WITH_LAB
#include "cli/lab/lab_command.h"
#endif

namespace stillpoint::cli {
namespace {

constexpr const char* kFooter =
    "Exit codes: 0 done, 1 it failed (stderr says why and what to do), 2 wrong usage, 3 no coordinator,\n"
    "4 no such job, checkpoint or host. `wait` exits with the program's own exit code.";

void add_commands(CLI::App& app, CommandContext& context) {
  add_validate_command(app, context);
  add_submit_command(app, context);
  add_job_commands(app, context);
  add_checkpoint_commands(app, context);
  add_store_commands(app, context);
  add_transfer_commands(app, context);
  add_logs_command(app, context);
  add_events_command(app, context);
  add_wait_command(app, context);
  add_host_commands(app, context);
  add_catalog_commands(app, context);
  add_doctor_command(app, context);
#ifdef STILLPOINT_WITH_LAB
  add_lab_command(app, context);
#endif
}

// The first word where a command should stand and none does; else empty.
std::string unknown_command(const CLI::App& app, const std::vector<std::string>& words) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--server") ++i;  // its value
    else if (!words[i].starts_with("-")) {
      const auto known = app.get_subcommands([&](const CLI::App* command) { return command->check_name(words[i]); });
      return known.empty() ? words[i] : "";
    }
  }
  return "";
}

// Of our standard output, as with `| head`: it has read what it wanted, and nothing failed.
bool reader_left() {
  pollfd output{STDOUT_FILENO, 0, 0};
  return ::poll(&output, 1, 0) == 1 && (output.revents & POLLERR) != 0;
}

// What the command does. Exceptions end here: a document of the coordinator that is not what it should be.
int act(CommandContext& context) {
  int code = kWrongUsage;
  try {
    if (context.action) code = context.action();
  } catch (const std::exception& broken) {
    code = report(context, Error{ErrorKind::permanent, "read the coordinator's answer", "",
                                 std::string(broken.what()) + "; do its version and this one agree?"});
  }
  context.out.flush();
  if (context.out.good() || code != kDone || reader_left()) return code;
  note(context, "the answer could not be written to standard output");
  return kFailed;
}

}  // namespace

int run(std::vector<std::string> arguments, std::ostream& out, std::ostream& err, bool terminal) {
  CommandContext context{.out = out, .err = err, .terminal = terminal};
  CLI::App app("Checkpoints and restarts whole MPI jobs that run in virtual machines.", "stillpoint");
  app.footer(kFooter);
  app.set_version_flag("--version", STILLPOINT_VERSION);
  app.fallthrough();  // --json and --server may stand before or after the command; subcommands inherit this
  app.require_subcommand(1);
  app.add_flag("--json", context.json, "Print one JSON document on stdout and nothing else there");
  app.add_option("--server", context.server, "The coordinator's socket: PATH or unix:PATH")
      ->envname("STILLPOINT_SERVER");
  add_commands(app, context);
  const auto words = arguments;
  try {
    std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
    app.parse(std::move(arguments));
  } catch (const CLI::ParseError& problem) {
    // --help and --version end here too, with code 0.
    if (const auto unknown = unknown_command(app, words); !unknown.empty()) {
      err << "stillpoint: there is no command " << unknown << "; see stillpoint --help" << std::endl;
      return kWrongUsage;
    }
    return app.exit(problem, out, err) == 0 ? kDone : kWrongUsage;
  }
  return act(context);
}

}  // namespace stillpoint::cli
