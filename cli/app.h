// The `stillpoint` command as a function, so that tests can run it in their own process. One thread.
#pragma once

#include <ostream>
#include <string>
#include <vector>

namespace stillpoint::cli {

// Runs one invocation; arguments without the program's name. Gives the exit code.
int run(std::vector<std::string> arguments, std::ostream& out, std::ostream& err, bool terminal);

}  // namespace stillpoint::cli
