// What an operation of the agent ended with: a value, or a wire::Failure that says which step failed on what and why.
// The agent's own kind of common/result.h, which would bring Boost into the guest. Values.
#pragma once

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <variant>

#include "gang.pb.h"

namespace stillpoint::agent {

inline wire::Failure failure(wire::Failure::Kind kind, std::string step, std::string object, std::string cause) {
  wire::Failure f;
  f.set_kind(kind);
  f.set_step(std::move(step));
  f.set_object(std::move(object));
  f.set_cause(std::move(cause));
  return f;
}

// The failure for an errno. A full file system is told apart: the user can do something about it.
inline wire::Failure errno_failure(std::string step, std::string object, int error = errno) {
  const auto kind = error == ENOSPC || error == EDQUOT ? wire::Failure::STORAGE_FULL
                    : error == ENOENT                  ? wire::Failure::NOT_FOUND
                                                       : wire::Failure::PERMANENT;
  return failure(kind, std::move(step), std::move(object), std::strerror(error));
}

struct Nothing {};

template <class T>
class [[nodiscard]] Outcome {
 public:
  Outcome(T value) : state_(std::move(value)) {}
  Outcome(wire::Failure f) : state_(std::move(f)) {}
  bool ok() const { return state_.index() == 0; }
  const T& value() const { return std::get<0>(state_); }
  T& value() { return std::get<0>(state_); }
  const wire::Failure& failure() const { return std::get<1>(state_); }

 private:
  std::variant<T, wire::Failure> state_;
};
using Done = Outcome<Nothing>;

}  // namespace stillpoint::agent
