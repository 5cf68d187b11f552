// Waiting on a job, also across a coordinator that is started anew. One thread.
#pragma once

#include <chrono>
#include <string_view>

#include "cli/command.h"

namespace stillpoint::cli {

bool is_over(std::string_view state);  // completed, failed or stopped

// Whether to ask again after a failure: yes while a coordinator that was there before is away for no longer than
// `limit`. One that never answered is not waited for.
class Patience {
 public:
  explicit Patience(CommandContext& context, std::chrono::milliseconds limit = std::chrono::seconds(60))
      : context_(context), limit_(limit) {}
  void answered();
  // Blocks for a short pause before it says yes.
  bool try_again(const Failure& failure);

 private:
  CommandContext& context_;
  std::chrono::milliseconds limit_;
  bool answered_ = false;
  bool away_ = false;
  std::chrono::steady_clock::time_point since_{};  // while away_
};

}  // namespace stillpoint::cli
