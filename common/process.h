// Runs a program to its end and collects what it printed. Blocking; any thread; no shell is involved.
#pragma once

#include <chrono>
#include <stop_token>
#include <string>
#include <vector>

#include "common/result.h"

namespace stillpoint {

struct ProcessOutcome {
  int exit_code = 0;  // 128 + n when signal n ended it
  std::string out;
  std::string err;
};

struct ProcessOptions {
  std::chrono::milliseconds deadline{60'000};  // then SIGKILL and an error of kind deadline
  std::string input;
  std::size_t output_limit = 8u << 20;      // per stream; more is an error
  std::stop_token stop = {};                // when it is requested: SIGKILL and an error of kind refused
  std::chrono::nanoseconds* cpu = nullptr;  // set to the processor time that it used, however it ended
};

// An outcome for every program that could be started, whatever its exit code.
Result<ProcessOutcome> run_process(const std::vector<std::string>& argv, const ProcessOptions& options = {});

// The same, but a non-zero exit code is an error whose cause is what the program said on stderr.
Result<std::string> run_checked(const std::vector<std::string>& argv, const ProcessOptions& options = {});

}  // namespace stillpoint
