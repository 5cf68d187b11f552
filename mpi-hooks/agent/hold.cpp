#include "mpi-hooks/agent/hold.h"

#include <algorithm>
#include <cstdlib>

namespace stillpoint::agent {
namespace {

wire::Failure refused(std::uint64_t epoch, std::string cause) {
  return failure(wire::Failure::REFUSED, "hold", "epoch " + std::to_string(epoch), std::move(cause));
}
wire::Failure epoch_lost(std::uint64_t epoch) {
  return refused(epoch, "EPOCH_LOST: the guest let go of this epoch by itself");
}

}  // namespace

std::optional<wire::Failure> Hold::overtaken(std::uint64_t epoch, std::uint64_t step) {
  if (step == 0 || epoch < stepped_) return std::nullopt;  // an older epoch is the other rules' business
  if (epoch == stepped_ && step < step_)
    return refused(epoch, "step " + std::to_string(step) + " of this epoch comes behind step " + std::to_string(step_));
  stepped_ = epoch;
  step_ = step;
  return std::nullopt;
}

std::optional<wire::Failure> Hold::begin(std::uint64_t epoch, Millis hold_ms, Millis now) {
  if (epoch == 0) return refused(epoch, "a hold needs an epoch");
  if (epoch <= lost_up_to_) return epoch_lost(epoch);
  if (epoch <= released_) return refused(epoch, "this epoch was released already");
  if (epoch < epoch_) return refused(epoch, "the guest is held at the newer epoch " + std::to_string(epoch_));
  if (held() && epoch > epoch_) lost_up_to_ = epoch_;
  epoch_ = epoch;
  hold_ms_ = hold_ms;
  extend(now);
  return std::nullopt;
}

std::optional<wire::Failure> Hold::require(std::uint64_t epoch, Millis now) {
  if (epoch != 0 && epoch == epoch_) {
    extend(now);
    return std::nullopt;
  }
  if (epoch <= lost_up_to_) return epoch_lost(epoch);
  return refused(epoch, held() ? "the guest is held at epoch " + std::to_string(epoch_) : "the guest is not held");
}

void Hold::froze(std::optional<std::int64_t> skew) {
  frozen_ = true;
  link_reopened_ = false;
  skew_ = skew;
}

bool Hold::lets_go(std::optional<std::int64_t> skew, Millis now) {
  if (!frozen_) return true;
  const bool same_machine = skew_ && skew && std::abs(*skew - *skew_) <= kMaxClockSkewSeconds;
  if (same_machine && !link_reopened_) return true;
  extend(now);
  return false;
}

void Hold::lost() {
  lost_up_to_ = std::max(lost_up_to_, epoch_);
  epoch_ = 0;
  frozen_ = false;
}

bool Hold::release(std::uint64_t epoch) {
  if (!held()) return epoch != 0 && epoch == released_;
  // An order for an older epoch came late; the hold of the newer one is not its business.
  if (epoch != 0 && epoch < epoch_) return false;
  if (epoch != epoch_) {
    lost();
    return false;
  }
  released_ = epoch_;
  epoch_ = 0;
  frozen_ = false;
  return true;
}

}  // namespace stillpoint::agent
