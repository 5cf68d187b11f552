"""Mistakes that the explored tests must find: each is one change of the core, and reason enough for a test to fail.

One line each: name, file, what stands there (exactly once), what would stand there. A change of the core that moves
these lines has to move them here too; mutate says so.

Not in the list, because nothing depends on them alone: that the gate's word is changed with seq_cst (a barrier or
order() follows where it counts), and that pumping_allowed() acquires `phase_` (the survey behind the shut gate has
acquired what the program's thread did before it left its last call).
"""

GATE_H, GATE, HELPER_H, HELPER = "gate.h", "gate.cpp", "helper.h", "helper.cpp"
FENCE = "std::atomic_signal_fence(std::memory_order_seq_cst);"

MUTATIONS = [
    # The gate's argument: a full barrier between store and load on both sides, the closer paying for both.
    ("no membarrier", GATE, "  else membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);\n", ""),
    ("the compiler may load the gate before it stores the call", GATE_H,
     "    " + FENCE + "\n  }\n  // A peer has died", "  }\n  // A peer has died"),
    ("the compiler may load the gate before it takes the call back", GATE_H,
     "    " + FENCE + "\n    if (word_.load(std::memory_order_relaxed) != 0)",
     "    if (word_.load(std::memory_order_relaxed) != 0)"),
    ("the compiler may load the gate before it announces again", GATE, "    " + FENCE + "\n  }\n", "  }\n"),
    ("it does not announce again", GATE, "    thread.call.store(&call, std::memory_order_relaxed);\n    " + FENCE, ""),
    # Where membarrier is refused.
    ("a thread that goes in does not order itself", GATE,
     "    if ((word_.load(std::memory_order_relaxed) & kCareful) != 0) order();\n    const", "    const"),
    ("a thread that comes out does not order itself", GATE,
     "  if ((word_.load(std::memory_order_relaxed) & kCareful) != 0) order();\n  if", "  if"),
    ("the closer does not order itself", GATE, "if ((before & kCareful) != 0) order();\n  else membarrier",
     "if ((before & kCareful) == 0) membarrier"),
    ("order() orders nothing", GATE_H, "order_.fetch_add(1, std::memory_order_acq_rel)",
     "order_.fetch_add(1, std::memory_order_relaxed)"),
    # What is behind the gate.
    ("leave() does not release", GATE_H, "thread.call.store(nullptr, std::memory_order_release)",
     "thread.call.store(nullptr, std::memory_order_relaxed)"),
    ("parking does not release", GATE, "thread.call.store(nullptr, std::memory_order_release)",
     "thread.call.store(nullptr, std::memory_order_relaxed)"),
    ("the survey does not acquire", GATE, "thread.call.load(std::memory_order_acquire)",
     "thread.call.load(std::memory_order_relaxed)"),
    ("open() does not release", GATE, "word_.fetch_and(~kShut, std::memory_order_release)",
     "word_.fetch_and(~kShut, std::memory_order_relaxed)"),
    ("enter() does not acquire", GATE_H, "word_.load(std::memory_order_acquire) == 0",
     "word_.load(std::memory_order_relaxed) == 0"),
    ("a parked thread does not acquire", GATE, "seen = word_.load(std::memory_order_acquire)",
     "seen = word_.load(std::memory_order_relaxed)"),
    # Sleeping and waking.
    ("open() wakes nobody", GATE, "  futex_wake_all(word_);\n", ""),
    ("open() wakes before it opens", GATE,
     "  word_.fetch_and(~kShut, std::memory_order_release);\n  futex_wake_all(word_);\n",
     "  futex_wake_all(word_);\n  word_.fetch_and(~kShut, std::memory_order_release);\n"),
    ("sleeping on what the word is by now", GATE, "futex_wait(word_, seen)",
     "futex_wait(word_, word_.load(std::memory_order_relaxed))"),
    ("a thread that parks does not ring", GATE,
     "    ring();  // the closer may have seen `call` for a moment and wait for it to go\n", ""),
    ("a thread that comes out does not ring", GATE, "& kShut) != 0) ring();", "& kShut) != 0) return;"),
    ("a parked thread shows as inside", GATE, "    thread.call.store(nullptr, std::memory_order_release);\n    ring()",
     "    ring()"),
    ("a thread that has gone on shows as parked", GATE, "  thread.parked.store(nullptr, std::memory_order_relaxed);\n", ""),
    # The list.
    ("joining without the lock", GATE,
     "  Locked locked(lock_);\n  thread.call.store", "  thread.call.store"),
    ("parting without the lock", GATE, "  Locked locked(lock_);\n  if (thread.joined", "  if (thread.joined"),
    ("a survey without the lock", GATE, "  Locked locked(lock_);\n  all.calls", "  all.calls"),
    ("parting forgets the calls", GATE, "  parted_calls_ += thread.calls.exchange(0, std::memory_order_relaxed);\n", ""),
    # For good.
    ("open() lets everybody through", GATE, "word_.fetch_and(~kShut, std::memory_order_release)",
     "word_.store(0, std::memory_order_release)"),
    ("a dead peer's gate stops nobody", GATE, "(seen & (kShut | kFailed)) == 0", "(seen & kShut) == 0"),
    # keep_out() against pump().
    ("keep_out() only looks", HELPER, "in_mpi_.fetch_or(0, std::memory_order_acq_rel)",
     "in_mpi_.load(std::memory_order_acquire)"),
    ("pump() only says so", HELPER, "in_mpi_.exchange(1, std::memory_order_acq_rel)",
     "in_mpi_.store(1, std::memory_order_release)"),
    ("pump() does not look again", HELPER, "const bool allowed = pumping_allowed();", "const bool allowed = true;"),
    ("pump() looks again before it says so", HELPER,
     "  in_mpi_.exchange(1, std::memory_order_acq_rel);\n"
     "  const bool allowed = pumping_allowed();  // still: from here on whoever changes it waits\n",
     "  const bool allowed = pumping_allowed();\n  in_mpi_.exchange(1, std::memory_order_acq_rel);\n"),
    ("pump() comes out without releasing", HELPER, "in_mpi_.store(0, std::memory_order_release)",
     "in_mpi_.store(0, std::memory_order_relaxed)"),
    ("keep_out() does not acquire", HELPER, "in_mpi_.fetch_or(0, std::memory_order_acq_rel)",
     "in_mpi_.fetch_or(0, std::memory_order_release)"),
    ("keep_out() does not release", HELPER, "in_mpi_.fetch_or(0, std::memory_order_acq_rel)",
     "in_mpi_.fetch_or(0, std::memory_order_acquire)"),
    ("pump() does not acquire", HELPER, "in_mpi_.exchange(1, std::memory_order_acq_rel)",
     "in_mpi_.exchange(1, std::memory_order_release)"),
    ("pump() wakes nobody", HELPER, "  futex_wake_all(in_mpi_);\n", ""),
    ("pump() wakes before it is out", HELPER,
     "  in_mpi_.store(0, std::memory_order_release);\n  futex_wake_all(in_mpi_);\n",
     "  futex_wake_all(in_mpi_);\n  in_mpi_.store(0, std::memory_order_release);\n"),
    ("finalizing() does not keep the helper out", HELPER, "  keep_out();\n", ""),
    ("pumping with the gate open", HELPER, " || !gate_.is_shut()) return false;", ") return false;"),
    ("pumping beside a call at SERIALIZED", HELPER, "if (!multiple_.load(std::memory_order_relaxed)) return",
     "if (survey.threads == 0) return"),
    ("pumping while parts are not ready", HELPER, " || partitioned_.any_unready()) return", ") return"),
    # World.
    ("initialized() does not release", HELPER, "phase_.store(Phase::running, std::memory_order_release)",
     "phase_.store(Phase::running, std::memory_order_relaxed)"),
    ("figures() does not acquire", HELPER,
     "  const Phase phase = phase_.load(std::memory_order_acquire);\n  const bool failed",
     "  const Phase phase = phase_.load(std::memory_order_relaxed);\n  const bool failed"),
    ("a later session writes the world", HELPER,
     "if (phase_.load(std::memory_order_relaxed) == Phase::starting) world_ = world;", "world_ = world;"),
    # Critical sections.
    ("forbid() does not pass the gate", HELPER, "  gate_.enter(thread, call);\n  gate_.leave(thread);\n", ""),
    ("the helper does not look at the count again", HELPER, "    if (!forbidden()) return;\n", "    return;\n"),
    ("the end of a section ends all", HELPER, "compare_exchange_weak(before, before - 1,", "compare_exchange_weak(before, 0,"),
    ("closed is said while the gate is open", HELPER, "if (gate_.is_shut() && gate_.survey().in_defer == 0) {",
     "if (gate_.survey().in_defer == 0) {"),
    # What is told.
    ("closed in the middle of a call that must be over", HELPER, "if (gate_.is_shut() && gate_.survey().in_defer == 0) {",
     "if (gate_.is_shut()) {"),
    ("a call that is not over is no reason to be busy", HELPER, "(survey.in_gate != 0 || survey.in_defer != 0 || failed)",
     "(survey.in_defer != 0 || failed)"),
    ("a dead peer is no reason to be busy", HELPER, "survey.in_defer != 0 || failed)", "survey.in_defer != 0)"),
    ("a lost agent leaves the gate shut", HELPER, "  if (gate_.is_shut()) gate_.open();\n  opened(0);", "  opened(0);"),
    ("a wish that comes meanwhile is lost", HELPER, "const std::uint32_t wishes = wishes_.exchange(0);",
     "const std::uint32_t wishes = "
     "[this] { const std::uint32_t all = wishes_.load(); wishes_.store(0); return all; }();"),
    ("two starts", HELPER, "  Locked locked(start_lock_);\n", ""),
    ("callbacks are not released", HELPER, "callbacks_used_.store(used + 1, std::memory_order_release)",
     "callbacks_used_.store(used + 1, std::memory_order_relaxed)"),
    ("callbacks are not acquired", HELPER, "callbacks_used_.load(std::memory_order_acquire)",
     "callbacks_used_.load(std::memory_order_relaxed)"),
]
