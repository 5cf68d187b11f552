#include "cli/export/interrupts.h"

#include <atomic>

namespace stillpoint::cli {
namespace {

constexpr std::array kSignals{SIGINT, SIGTERM, SIGHUP};

std::atomic<int> noted{0};  // lock-free: set by the handler

extern "C" void note_signal(int number) { noted = number; }

}  // namespace

Interrupts::Interrupts() {
  noted = 0;
  struct sigaction action {};
  action.sa_handler = note_signal;
  for (std::size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &action, &before_[i]);
}

Interrupts::~Interrupts() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &before_[i], nullptr);
}

Status Interrupts::check() const {
  if (noted == 0) return {};
  return Error{ErrorKind::refused, "go on", "", "it was interrupted; nothing of it is left"};
}

}  // namespace stillpoint::cli
