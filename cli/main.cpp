#include <unistd.h>

#include <csignal>
#include <iostream>

#include "cli/app.h"

int main(int argc, char** argv) {
  // A peer or a started program that is gone is an error of that write, not our end.
  std::signal(SIGPIPE, SIG_IGN);
  return stillpoint::cli::run({argv + 1, argv + argc}, std::cout, std::cerr, ::isatty(STDERR_FILENO) == 1);
}
