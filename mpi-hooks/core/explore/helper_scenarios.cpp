// The helper with its gate, an agent that takes checkpoints, and a program that does what programs do.
//
// MPI is here one piece of data that whoever is in MPI changes without a lock: the program's thread inside its calls,
// the helper when it pumps. At a level below MPI_THREAD_MULTIPLE two of them at once are a data race to the machine.
#include <memory>

#include "mpi-hooks/core/explore/explore.h"
#include "mpi-hooks/core/explore/scenarios.h"
#include "mpi-hooks/core/helper.h"

namespace stillpoint::hooks::explore {
namespace {

constexpr Call kLocal{"PMPI_Isend", CallKind::gate};
constexpr Call kWaiting{"PMPI_Recv", CallKind::blocking};
constexpr Call kInit{"PMPI_Init", CallKind::defer};
constexpr Call kSessionInit{"PMPI_Session_init", CallKind::defer};
constexpr Call kFinalize{"PMPI_Finalize", CallKind::defer};
constexpr Call kForbid{"Pstillpoint_forbid", CallKind::gate};
constexpr std::int64_t kLong = std::int64_t{1} << 50;  // ns; some days

struct Rank;
Rank* the_rank = nullptr;

struct Rank {
  Rank() { the_rank = this; }

  static void progress() noexcept {
    Rank& rank = *the_rank;
    require(rank.up.get() == 1, "the helper is in MPI, and MPI is not up");
    require(rank.unready.get() == 0, "the helper is in MPI while parts of a send are not ready");
    rank.pumping.set(1);
    if (rank.multiple.get() == 0) {
      require(rank.inside.get() == 0, "the helper is in MPI beside the program");
      rank.mpi++;
    }
    if (rank.turns.add(1) % 64 == 1) pause();
    rank.pumping.set(0);
  }
  // The middle of a call: what libmpi does.
  void in_mpi() {
    require(pumping.get() == 0 || multiple.get() == 1, "the program is in MPI beside the helper");
    inside.add(1);
    mpi++;
    pause();
    mpi++;
    inside.add(-1);
  }
  // A whole call of the program's.
  void call(const Call& what) {
    gate.enter(thread, what);
    in_call.set(what.kind == CallKind::blocking ? 2 : 1);
    in_mpi();
    in_call.set(0);
    gate.leave(thread);
  }
  void start() {
    gate.join(thread);
    require(helper.start(Agent::kPath), "the agent listens, and the helper does not start");
  }
  void init() {
    gate.announce(thread, kInit);
    helper.keep_out();
    deferring.set(1);
    in_mpi();
    initialized();
    deferring.set(0);
    gate.leave(thread);
  }
  void initialized(bool for_many = false) {
    up.set(1);
    multiple.set(for_many);
    helper.initialized({.rank = 2, .size = 8, .multiple = for_many, .progress = &progress});
  }
  void finalize() {
    gate.enter(thread, kFinalize);
    finalize_inside();
  }
  void finalize_inside() {
    helper.finalizing();
    up.set(0);
    deferring.set(1);
    in_mpi();
    helper.finalized();
    deferring.set(0);
    gate.leave(thread);
  }
  void end() {
    gate.part(thread);
    helper.stop();
  }

  Gate gate;
  Communicators communicators;
  PartitionedSends partitioned;
  Helper helper{gate, communicators, partitioned};
  Thread thread;
  int mpi = 0;
  Ghost inside, pumping, turns, up, multiple;  // of MPI
  Ghost in_call, deferring, critical;
  Ghost unready;  // parts of a partitioned send that has been started
  Ghost checkpoints;
  Ghost closed;  // as the agent knows it: from the word `closed` to its own `open`
};

// What the agent may rely on between the two.
void check_closed(const Rank& rank, const RankPacket& packet) {
  require(rank.critical.get() == 0, "closed in a critical section");
  if (rank.in_call.get() == 1) require(packet.busy == 1, "in a call behind the shut gate, and not reported as busy");
}

// One checkpoint: `closed` comes, perhaps after deferring, then some figures, then the gate is opened.
void checkpoint(Agent& agent, Rank& rank, std::uint64_t epoch, int counts) {
  agent.send(RankMessage::close, epoch);
  const RankPacket closed = agent.await(RankMessage::closed);
  require(closed.epoch == epoch, "closed for another epoch");
  check_closed(rank, closed);
  rank.closed.set(1);
  for (int i = 0; i < counts; i++) {
    agent.send(RankMessage::count, epoch);
    check_closed(rank, agent.await(RankMessage::figures));
  }
  rank.closed.set(0);
  agent.send(RankMessage::open, epoch);
  require(agent.await(RankMessage::opened).epoch == epoch, "opened for another epoch");
  rank.checkpoints.add(1);
}

// The usual frame: an agent that does this, and a program that does that after its helper has started.
void with_agent(const std::function<void(Agent&, Rank&)>& agent_does, const std::function<void(Rank&)>& program_does) {
  auto rank = std::make_unique<Rank>();
  auto agent = std::make_unique<Agent>();
  rank->start();
  const unsigned thread = begin("agent", [&] {
    agent->accept();
    agent->await(RankMessage::hello);
    agent_does(*agent, *rank);
  });
  program_does(*rank);
  wait_for(thread);
  rank->end();
}

void calls_under_checkpoint() {
  with_agent(
      [](Agent& agent, Rank& rank) {
        agent.await(RankMessage::ready);
        agent.send(RankMessage::count, 0);  // with the gate open, MPI is the program's
        agent.await(RankMessage::figures);
        checkpoint(agent, rank, 1, 1);
      },
      [](Rank& rank) {
        rank.init();
        rank.call(kLocal);
        rank.call(kWaiting);
      });
}

void checkpoint_during_init() {
  with_agent(
      [](Agent& agent, Rank& rank) {
        agent.send(RankMessage::close, 1);
        const RankPacket closed = agent.await(RankMessage::closed);
        // MPI_Init may begin after it, but one that had begun is over.
        if (closed.state != RankState::starting && rank.deferring.get() == 1)
          require(closed.state == RankState::deferring, "closed was said in the middle of MPI_Init");
        agent.send(RankMessage::open, 1);
        agent.await(RankMessage::opened);
      },
      [](Rank& rank) {
        rank.init();
        rank.call(kLocal);
      });
}

// The last call that has to be over first is left before closed is said.
void closed_after_defer() {
  with_agent(
      [](Agent& agent, Rank& rank) {
        agent.await(RankMessage::ready);
        agent.send(RankMessage::close, 1);
        agent.await(RankMessage::closed);
        require(rank.deferring.get() == 0, "closed while a call is under way that has to be over first");
        agent.send(RankMessage::open, 1);
        agent.await(RankMessage::opened);
      },
      [](Rank& rank) {
        rank.initialized();
        rank.gate.enter(rank.thread, kInit);
        rank.deferring.set(1);
        rank.in_mpi();
        rank.deferring.set(0);
        rank.gate.leave(rank.thread);
      });
}

void finalize_under_checkpoint() {
  with_agent(
      [](Agent& agent, Rank& rank) {
        agent.await(RankMessage::ready);
        checkpoint(agent, rank, 1, 1);
      },
      [](Rank& rank) {
        rank.initialized();
        rank.call(kLocal);
        rank.finalize();
      });
}

// finalizing() keeps the helper out by itself, too: this program does not stop at the gate.
void finalizing_against_pump() {
  with_agent(
      [](Agent& agent, Rank& rank) {
        agent.await(RankMessage::ready);
        checkpoint(agent, rank, 1, 1);
      },
      [](Rank& rank) {
        rank.initialized();
        wait_until("the helper to pump", [&] { return rank.turns.get() > 0; });
        rank.finalize_inside();
      });
}

void session_after_session() {
  with_agent(
      [](Agent& agent, Rank& rank) {
        agent.await(RankMessage::ready);
        checkpoint(agent, rank, 1, 0);
        checkpoint(agent, rank, 2, 1);
      },
      [](Rank& rank) {
        rank.initialized(true);
        rank.finalize();
        rank.init();
        rank.call(kWaiting);
      });
}

// A second session begins while the first is up and its helper may be pumping.
void session_beside_session() {
  with_agent(
      [](Agent& agent, Rank& rank) {
        agent.await(RankMessage::ready);
        checkpoint(agent, rank, 1, 1);
      },
      [](Rank& rank) {
        rank.initialized();
        rank.gate.announce(rank.thread, kSessionInit);
        rank.helper.keep_out();
        rank.in_mpi();
        rank.gate.leave(rank.thread);
      });
}

// Two critical sections of two threads, one after the other or overlapping.
void critical_sections() {
  with_agent(
      [](Agent& agent, Rank& rank) {
        agent.await(RankMessage::ready);
        checkpoint(agent, rank, 1, 0);
      },
      [](Rank& rank) {
        rank.initialized();
        const auto body = [&rank](Thread& thread) {
          rank.helper.forbid(thread, kForbid, kLong);
          require(rank.closed.get() == 0, "a critical section began in the middle of a checkpoint");
          rank.critical.add(1);
          sleep_ns(10);  // a checkpoint that does not wait comes now
          rank.critical.add(-1);
          rank.helper.allow();
        };
        auto second = std::make_unique<Thread>();
        rank.gate.join(*second);
        const unsigned other = begin("second", [&] { body(*second); });
        body(rank.thread);
        wait_for(other);
        rank.gate.part(*second);
      });
}

void agent_lost_while_shut() {
  with_agent(
      [](Agent& agent, Rank&) {
        agent.await(RankMessage::ready);
        agent.send(RankMessage::close, 1);
        agent.await(RankMessage::closed);
        agent.hang_up();
        agent.accept();
        agent.await(RankMessage::hello);
        agent.await(RankMessage::ready);
      },
      [](Rank& rank) {
        rank.initialized();
        rank.call(kLocal);
        rank.call(kLocal);
      });
}

// Lost at any moment at all.
void agent_lost_anywhere() {
  with_agent(
      [](Agent& agent, Rank&) {
        agent.send(RankMessage::close, 1);
        agent.go_away();
      },
      [](Rank& rank) {
        rank.init();
        rank.call(kLocal);
        rank.finalize();
      });
}

void peer_dies() {
  with_agent(
      [](Agent& agent, Rank&) {
        agent.await(RankMessage::peer_failed);
        agent.send(RankMessage::close, 1);
        require(agent.await(RankMessage::closed).busy == 1, "at rest although a peer has died");
        agent.send(RankMessage::count, 1);
        require(agent.await(RankMessage::figures).busy == 1, "at rest although a peer has died");
      },
      [](Rank& rank) {
        rank.initialized();
        rank.gate.lock_for_good();
        rank.helper.peer_failed(5);
      });
}

void wishes() {
  with_agent(
      [](Agent& agent, Rank&) {
        const unsigned first = agent.await(RankMessage::wish).value, second = agent.await(RankMessage::wish).value;
        require(first + second == 1, "a wish was lost, or passed on twice");
      },
      [](Rank& rank) {
        rank.helper.wish(RankWish::checkpoint);
        rank.helper.wish(RankWish::good_moment);
      });
}

// Between the start of a partitioned send and its last part the helper keeps out, though nobody is in MPI.
void partitioned_send() {
  with_agent(
      [](Agent& agent, Rank& rank) {
        agent.await(RankMessage::ready);
        checkpoint(agent, rank, 1, 1);
      },
      [](Rank& rank) {
        rank.initialized();
        const void* const request = &rank;
        require(rank.partitioned.made(request, 1), "no memory");
        rank.gate.enter(rank.thread, kLocal);
        rank.partitioned.started(request);
        rank.unready.set(1);
        rank.in_mpi();
        rank.gate.leave(rank.thread);
        rank.gate.enter(rank.thread, kLocal);
        rank.in_mpi();
        rank.unready.set(0);
        rank.partitioned.ready(request, 1);
        rank.gate.leave(rank.thread);
      });
}

// Callbacks that are added while a checkpoint begins are called for it or not, and whole.
void callbacks() {
  with_agent(
      [](Agent& agent, Rank& rank) {
        agent.await(RankMessage::ready);
        checkpoint(agent, rank, 1, 0);
      },
      [](Rank& rank) {
        rank.initialized();
        const auto count = [](void* number) { static_cast<Ghost*>(number)->add(1); };
        auto before = std::make_unique<Ghost>();
        require(rank.helper.add_callbacks({count, nullptr, nullptr, before.get()}), "no room for callbacks");
        wait_until("the checkpoint to be over", [&] { return rank.checkpoints.get() == 1; });
        require(before->get() <= 1, "called twice");
      });
}

// The first sessions of two threads at once.
void two_starts() {
  auto rank = std::make_unique<Rank>();
  auto agent = std::make_unique<Agent>();
  const auto start = [&] { require(rank->helper.start(Agent::kPath), "the helper does not start"); };
  const unsigned first = begin("first", start);
  const unsigned second = begin("second", start);
  agent->accept();
  agent->await(RankMessage::hello);
  wait_for(first);
  wait_for(second);
  rank->helper.stop();
}

constexpr Scenario kScenarios[] = {
    {"calls under a checkpoint", &calls_under_checkpoint, 1, 0},
    {"a checkpoint during MPI_Init", &checkpoint_during_init, 1, 0},
    {"closed comes after what has to be over first", &closed_after_defer, 1, 0},
    {"MPI_Finalize under a checkpoint", &finalize_under_checkpoint, 1, 0},
    {"finalizing against pumping", &finalizing_against_pump, 1, 0},
    {"a session after the last one", &session_after_session, 1, 0},
    {"a session beside another", &session_beside_session, 1, 0},
    {"critical sections of two threads", &critical_sections, 1, 0},
    {"the agent is lost while the gate is shut", &agent_lost_while_shut, 1, 0},
    {"the agent is lost at any moment", &agent_lost_anywhere, 1, 0},
    {"a peer dies", &peer_dies, 1, 0},
    {"wishes", &wishes, 1, 0},
    {"a partitioned send", &partitioned_send, 1, 0},
    {"callbacks are added", &callbacks, 1, 0},
    {"two threads start the helper", &two_starts, 1, 0},
};

}  // namespace

std::span<const Scenario> helper_scenarios() { return kScenarios; }

}  // namespace stillpoint::hooks::explore
