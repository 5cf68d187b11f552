// When a job's next checkpoint by itself is due. Core's strand.
//
// `interval: auto` is the optimum of J. T. Daly, "A higher order estimate of the optimum checkpoint interval for
// restart dumps", Future Generation Computer Systems 22 (2006), eq. 37, which refines J. W. Young's sqrt(2 cost MTBF)
// (1974):
//
//   cost  what a checkpoint takes from the job: the stall, and kUploadShare of the time until the commit, in which the
//         job runs beside the upload. Means of the job's newest kMeasured committed epochs.
//   MTBF  of the hosts that the job runs on together: the sum of their rates. A host's rate is
//         (failures + kPriorFailures) / (time watched + kPriorTime): what is observed, beginning from one failure in a
//         year, which gives way within about a month of watching: the mean of the gamma posterior of a Poisson rate.
//
// The result lies between kLeastInterval, or the time of a commit where that is longer, and kMostInterval. A job
// without a committed epoch takes the first one after kFirstInterval, to be measured.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::interval {

inline constexpr double kUploadShare = 0.2;  // docs/figures.md: 0.1 at a low dirty rate, 0.25 at 200 MB/s
inline constexpr int kMeasured = 5;
inline constexpr double kDay = 86'400, kPriorTime = 30 * kDay, kPriorFailures = kPriorTime / (365 * kDay);
inline constexpr double kLeastInterval = 10, kFirstInterval = 60, kMostInterval = kDay;
// After a restart, before a checkpoint that nobody asked for.
inline constexpr std::chrono::milliseconds kQuiet{10'000};

// Daly's optimum in seconds, from seconds; cost at least 0, mtbf above 0.
double optimum(double cost, double mtbf);

// Of a job that checkpoints by itself; nothing: it does not.
std::optional<IntervalView> view(const Core& core, const JobRecord& job);

// From now on, as its manifest says. After a restart there is a quiet time first; a commit is one more measurement, for
// what follows an epoch that began then; an attempt that failed is made again sooner; a coordinator that starts anew
// counts from the newest checkpoint.
void plan_next(Core& core, const JobRecord& job);
void plan_after_restart(Core& core, const JobRecord& job);
void plan_after_commit(Core& core, const JobRecord& job, Time begun);
void plan_after_abort(Core& core, const JobRecord& job);
void plan_after_recovery(Core& core, const JobRecord& job);
// Its job checkpoints by itself, and now is the time.
bool due(Core& core, const JobRecord& job);
bool quiet(Core& core, const JobRecord& job);

}  // namespace stillpoint::coordinator::interval
