// Sessions between the coordinator and the hosts: two ways each, in order, with delays; a way that is cut holds back
// what is under way, as TCP does. What is lost, doubled or overtaking is chance, as the shape says; with what is lost
// its session ends, soon. One owner: the cluster.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <memory>

#include "coordinator/core/events.h"
#include "tests/simulation/dice.h"
#include "tests/simulation/plan.h"

namespace stillpoint::simulation {

class Network {
 public:
  enum Way { up, down };  // from the host, to the host

  struct Session {
    coordinator::SessionId id;
    std::size_t host = 0;
    bool open[2] = {true, true};  // as the coordinator sees it (up's end), and the host (down's end)
    Time last[2] = {};            // nothing of a way arrives before
    bool named = false;           // the hello has arrived
    bool spoken[2] = {};          // its first word, which opens it, is not overtaken by others
    bool torn[2] = {};            // something of that way is lost, and so is all that would follow it
  };
  using SessionPtr = std::shared_ptr<Session>;

  // torn: something that was sent on this session will never arrive; its ends are to find out after a while.
  Network(Agenda& agenda, const Shape& shape, std::function<void(const SessionPtr&)> torn);

  SessionPtr open(std::size_t host);
  // Delivers after a while, if that end of the session is open then.
  void transmit(const SessionPtr& session, Way way, std::function<void()> deliver);
  // The end of a session, said by one end to the other; in order, too, and never lost but by a cut.
  void finish(const SessionPtr& session, Way way, std::function<void()> deliver);
  void cut(std::size_t host, Way way, bool is_cut);
  bool is_cut(std::size_t host, Way way) const { return ways_[host][way].cut != 0; }
  bool is_reachable(std::size_t host) const { return !is_cut(host, up) && !is_cut(host, down); }
  void calm() { lost_ = doubled_ = overtaking_ = 0; }

 private:
  struct WayState {
    int cut = 0;
    std::deque<std::function<void()>> held_back;
  };
  void arrive(std::size_t host, Way way, std::function<void()> deliver);
  Time next_arrival(Session& session, Way way);

  Agenda& agenda_;
  std::function<void(const SessionPtr&)> torn_;
  std::uint32_t lost_, doubled_, overtaking_;
  std::vector<Dice> dice_;
  std::vector<std::array<WayState, 2>> ways_;
  std::uint64_t next_session_ = 1;
};

}  // namespace stillpoint::simulation
