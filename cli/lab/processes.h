// Processes of a laboratory. A process belongs to it exactly when it is in one of its network namespaces: everything is
// started there, what that starts (QEMU) inherits it, and nothing else ever is. Any thread.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "cli/lab/journal.h"
#include "common/result.h"

namespace stillpoint::lab {

// Starts argv in a session of its own inside the named network namespace, with that namespace's /sys and stdout and
// stderr appended to log. Returns when the program is running (exec succeeded).
Result<ProcessRecord> start_in_namespace(const std::vector<std::string>& argv, const std::string& network_namespace,
                                         const std::filesystem::path& log);

// Is it this very process, and not ended?
bool alive(const ProcessRecord& process);

// Those in the named namespaces; a name that does not exist has none.
std::vector<pid_t> processes_in(const std::vector<std::string>& namespaces);

// SIGKILL to every process of the namespaces at once, again until none is left. Returns how many it killed.
Result<unsigned> kill_all_in(const std::vector<std::string>& namespaces, std::chrono::milliseconds deadline);

// Returns when one of the processes has ended, or after timeout.
void wait_for_end(const std::vector<ProcessRecord>& processes, std::chrono::milliseconds timeout);

}  // namespace stillpoint::lab
