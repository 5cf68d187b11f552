// The program's output: one stream of bytes by offset, each byte stored once, acknowledged when it is durable. Core's
// strand.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::output {

void on_output(Core& core, JobRecord& job, const wire::GuestOutput& output);
void on_durable(Core& core, const OutputDurable& event);
void on_failed(Core& core, const OutputFailed& event);
// Tells guest 0's host how far the output is durable: a guest sends on from there.
void acknowledge(Core& core, const JobRecord& job);
// A restart begins: nothing is taken or acknowledged until begin_at() has been done.
void pause(Core& core, const JobId& job);
// The stored output becomes that of the epoch's history up to offset; what comes next continues it. Epoch 0: no
// history.
void begin_at(Core& core, const JobRecord& job, Epoch epoch, std::uint64_t offset);
// Asks how much is stored, once, when that is not known.
void measure(Core& core, const JobId& job);
// As long as that could not be found out, again and again: without it nothing of a gang's output is taken.
void tick(Core& core, const JobRecord& job);
bool cut_back(const Core& core, const JobId& job);  // begin_at has been done

}  // namespace stillpoint::coordinator::output
