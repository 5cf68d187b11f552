// The job's output between the pipe it is read from and the coordinator's disk: positions are bytes since the job's
// first launch. What is not acknowledged is kept, so that it can be sent again; when there is too much of it, nothing
// more is read and the program waits in its write. Pure; one owner.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "guest.pb.h"
#include "mpi-hooks/agent/clock.h"

namespace stillpoint::agent {

class OutputBuffer {
 public:
  static constexpr std::size_t kMaxKept = 4u << 20;
  static constexpr std::size_t kWindow = 1u << 20;  // sent and not acknowledged
  static constexpr std::size_t kMaxPiece = 64u << 10;
  static constexpr Millis kSendAgainAfter = 3000;

  std::size_t room() const { return kMaxKept - kept(); }
  void append(std::string_view bytes) { bytes_.append(bytes); }
  std::uint64_t produced() const { return acked_ + kept(); }
  bool all_sent() const { return sent_ == produced(); }

  // The next piece to send, if any is due.
  std::optional<wire::Output> next(Millis now);
  // Everything before offset is durable. An offset that was never sent is passed over: it is about the output of
  // another incarnation, and believing it would lose what this one has yet to send.
  void acked(std::uint64_t offset, Millis now);
  // The link lost bytes, or leads somewhere else: send everything that is not acknowledged again.
  void send_again() { sent_ = acked_; }
  // When next() may have something again though nothing was appended.
  Millis deadline() const { return sent_ > acked_ ? last_progress_ + kSendAgainAfter : kNever; }

 private:
  std::size_t kept() const { return bytes_.size() - start_; }

  std::string bytes_;  // from start_ on: positions acked_ …
  std::size_t start_ = 0;
  std::uint64_t acked_ = 0;
  std::uint64_t sent_ = 0;       // acked_ <= sent_ <= produced()
  std::uint64_t sent_ever_ = 0;  // the most that sent_ has been
  Millis last_progress_ = 0;
};

}  // namespace stillpoint::agent
