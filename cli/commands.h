// One function for each command, which adds it to the command line. Each sets context.action when it is chosen.
// app and context outlive everything that they are given.
#pragma once

namespace CLI {
class App;
}

namespace stillpoint::cli {

struct CommandContext;

void add_validate_command(CLI::App& app, CommandContext& context);
void add_submit_command(CLI::App& app, CommandContext& context);
void add_job_commands(CLI::App& app, CommandContext& context);         // jobs, status, checkpoints, stop, rm
void add_checkpoint_commands(CLI::App& app, CommandContext& context);  // checkpoint, restart
void add_store_commands(CLI::App& app, CommandContext& context);       // verify, prune, store
void add_transfer_commands(CLI::App& app, CommandContext& context);    // export, import
void add_logs_command(CLI::App& app, CommandContext& context);
void add_events_command(CLI::App& app, CommandContext& context);
void add_catalog_commands(CLI::App& app, CommandContext& context);  // catalog backup
void add_wait_command(CLI::App& app, CommandContext& context);
void add_host_commands(CLI::App& app, CommandContext& context);  // hosts, cordon, uncordon
void add_doctor_command(CLI::App& app, CommandContext& context);

}  // namespace stillpoint::cli
