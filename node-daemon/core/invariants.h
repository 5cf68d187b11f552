// What must hold on a host after every step, checked there: in debug builds a broken one ends the process; tests ask
// for the list. Owned by the Host; its strand.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "node-daemon/core/host_impl.h"

namespace stillpoint::node {

class Invariants {
 public:
  // States after the step, and the effects that the step wants.
  void check(const std::map<GangId, Gang>& gangs, const std::map<JobId, Incarnation>& destroyed,
             const Effects& effects);
  const std::vector<std::string>& broken() const { return broken_; }

 private:
  // what: makes the words, when they are needed.
  template <class What>
  void expect(bool holds, What what) {
    if (!holds) broken_.push_back(what());
  }
  void check_gang(const Gang& gang);
  void check_captures(const Gang& gang);
  void check_effects(const std::map<GangId, Gang>& gangs, const Effects& effects);

  std::vector<std::string> broken_;
};

}  // namespace stillpoint::node
