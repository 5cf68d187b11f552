// A program that runs beside a test, until the object goes; it also ends when the test is killed. Tests only; it ends
// with the thread that started it, too. One owner.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

#include "common/fd.h"

namespace stillpoint::node::test {

class TestProcess {
 public:
  // Throws std::runtime_error when there is no such program.
  explicit TestProcess(const std::vector<std::string>& argv);
  ~TestProcess() { kill(); }
  TestProcess(const TestProcess&) = delete;
  TestProcess& operator=(const TestProcess&) = delete;

  // A line of its stdout, without its end. Throws when it ended or said none in time.
  std::string line(std::chrono::seconds deadline);
  // SIGKILL, and waits until it is gone.
  void kill();

 private:
  pid_t pid_ = -1;
  Fd out_;
};

}  // namespace stillpoint::node::test
