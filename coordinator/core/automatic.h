// The policy `restart: on-failure`: whether a job that lost something comes back by itself, when, and from where.
// Core's strand.
//
//   what was lost            comes back
//   a host, a guest          from the newest checkpoint that can be restored, on other hosts where there are any;
//   a rank (by a signal)     without a checkpoint from the beginning, wherever there is room
//   nothing: the program     not at all: it failed by itself, and would again
//   ended with an error
//
// Each job has spec.max_restarts of them until somebody restarts it by hand. Between two tries with no
// checkpoint in between the wait doubles, from kFirstWait to kLongestWait; the first one begins at once. A job that
// fails kSamePoint times without a host being lost and without a new checkpoint in between is not brought back again:
// it fails at the same point.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::automatic {

inline constexpr std::chrono::milliseconds kFirstWait{2'000}, kLongestWait{60'000};
inline constexpr std::uint32_t kSamePoint = 3;

struct Loss {
  std::string why;                  // for people
  bool host_lost = false;           // it is the host that failed, or the coordinator, and nothing of the job
  std::optional<HostName> suspect;  // avoided while other hosts have room
};

// Why it is not to be brought back, in words (empty: because nobody wants it); nothing: it is.
std::optional<std::string> refusal(const Core& core, const JobRecord& job, const Loss& loss);

// Counts the try and begins it: the job is restarting, or pending for a start from the beginning. What it was doing has
// been ended before. Only where refusal() gives none.
void bring_back(Core& core, JobRecord& job, const Loss& loss);

// A checkpoint has been committed: the job got further. The caller saves the record.
void got_further(JobRecord& job);
// Somebody restarts it by hand: all counts begin anew. The caller saves the record.
void forget(JobRecord& job);

}  // namespace stillpoint::coordinator::automatic
