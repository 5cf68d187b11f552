#include "cli/progress.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <nlohmann/json.hpp>

#include "cli/text.h"

namespace stillpoint::cli {
namespace {

constexpr std::chrono::milliseconds kEvery{150};

// Read by the signal handler: lock-free.
std::atomic<const char*> interrupt_note{nullptr};

extern "C" void on_interrupt(int signal_number) {
  if (const char* text = interrupt_note.load()) {
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text, std::strlen(text));
  }
  ::signal(signal_number, SIG_DFL);
  ::raise(signal_number);
}

}  // namespace

Progress::Progress(CommandContext& context, const ApiClient& client, std::string job, std::vector<std::string> phases)
    : context_(context), client_(client), job_(std::move(job)), phases_(std::move(phases)) {
  if (context_.terminal && !context_.json) thread_ = std::thread([this] { follow(); });
}

Progress::~Progress() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  wake_.notify_all();
  thread_.join();
  context_.err << "\r\x1b[K" << std::flush;
}

void Progress::follow() {
  const auto start = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, kEvery, [this] { return ended_; })) {
    lock.unlock();
    const auto status = client_.get("/v1/jobs/" + url_segment(job_), std::chrono::seconds(2));
    lock.lock();
    if (ended_) return;
    const std::chrono::duration<double> past = std::chrono::steady_clock::now() - start;
    draw(status && status->is_object() ? cell(*status, "phase") : "-", past.count());
  }
}

void Progress::draw(const std::string& phase, double seconds) {
  constexpr std::size_t kWidth = 24;
  const auto found = std::find(phases_.begin(), phases_.end(), phase);
  // Phases may repeat (a cut that was not quiet is tried again); the bar never goes back.
  if (found != phases_.end()) reached_ = std::max(reached_, static_cast<std::size_t>(found - phases_.begin()) + 1);
  const auto full = kWidth * reached_ / (phases_.size() + 1);
  context_.err << fmt::format("\r\x1b[K[{}{}] {:<9} {:.1f} s", std::string(full, '#'), std::string(kWidth - full, '.'),
                              phase == "-" ? "waiting" : phase, seconds)
               << std::flush;
}

InterruptNote::InterruptNote(const char* note) {
  interrupt_note = note;
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

InterruptNote::~InterruptNote() {
  ::signal(SIGINT, SIG_DFL);
  ::signal(SIGTERM, SIG_DFL);
  interrupt_note = nullptr;
}

}  // namespace stillpoint::cli
