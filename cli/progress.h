// What the user sees while a checkpoint or restart is under way. Owned by one command.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cli/api_client.h"
#include "cli/command.h"

namespace stillpoint::cli {

// Draws a bar of the job's phases on context.err while it lives, asking the coordinator on a connection of its own.
// Does nothing where err is no terminal or --json is set.
class Progress {
 public:
  Progress(CommandContext& context, const ApiClient& client, std::string job, std::vector<std::string> phases);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();  // ends the thread and wipes the line

 private:
  void follow();
  void draw(const std::string& phase, double seconds);

  CommandContext& context_;
  ApiClient client_;
  std::string job_;
  std::vector<std::string> phases_;
  std::size_t reached_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ended_ = false;  // under mutex_
  std::thread thread_;
};

// Ctrl-C while it lives: writes note (which must be a literal) and ends the process as the signal would have.
class InterruptNote {
 public:
  explicit InterruptNote(const char* note);
  InterruptNote(const InterruptNote&) = delete;
  InterruptNote& operator=(const InterruptNote&) = delete;
  ~InterruptNote();
};

}  // namespace stillpoint::cli
