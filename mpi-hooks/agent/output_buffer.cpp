#include "mpi-hooks/agent/output_buffer.h"

#include <algorithm>

namespace stillpoint::agent {

std::optional<wire::Output> OutputBuffer::next(Millis now) {
  if (now >= deadline()) send_again();
  if (all_sent() || sent_ - acked_ >= kWindow) return std::nullopt;
  if (sent_ == acked_) last_progress_ = now;
  const std::size_t size = std::min<std::size_t>(kMaxPiece, static_cast<std::size_t>(produced() - sent_));
  wire::Output output;
  output.set_offset(sent_);
  output.set_data(bytes_.data() + start_ + (sent_ - acked_), size);
  sent_ += size;
  sent_ever_ = std::max(sent_ever_, sent_);
  return output;
}

void OutputBuffer::acked(std::uint64_t offset, Millis now) {
  if (offset <= acked_ || offset > sent_ever_) return;
  start_ += static_cast<std::size_t>(offset - acked_);
  acked_ = offset;
  sent_ = std::max(sent_, acked_);
  last_progress_ = now;
  if (start_ == bytes_.size() || start_ >= kMaxKept) {
    bytes_.erase(0, start_);
    start_ = 0;
  }
}

}  // namespace stillpoint::agent
