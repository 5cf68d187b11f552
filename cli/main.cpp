#include <unistd.h>

#include <csignal>
#include <iostream>

#include "cli/app.h"

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a reader that went away (`| head`) shows as a failed write
  return stillpoint::cli::run({argv + 1, argv + argc}, std::cout, std::cerr, ::isatty(STDERR_FILENO) == 1);
}
