// `stillpoint lab …`: several hosts on one machine.
#pragma once

namespace CLI {
class App;
}

namespace stillpoint::cli {

struct CommandContext;

// Adds the command and its subcommands. Exit codes as everywhere, with 3 for "no laboratory there".
void add_lab_command(CLI::App& app, CommandContext& context);

}  // namespace stillpoint::cli
