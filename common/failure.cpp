#include "common/failure.h"

namespace stillpoint {

wire::Failure to_wire(const Error& error) {
  wire::Failure failure;
  switch (error.kind) {
    case ErrorKind::refused: failure.set_kind(wire::Failure::REFUSED); break;
    case ErrorKind::transient: failure.set_kind(wire::Failure::TRANSIENT); break;
    case ErrorKind::permanent: failure.set_kind(wire::Failure::PERMANENT); break;
    case ErrorKind::storage_full: failure.set_kind(wire::Failure::STORAGE_FULL); break;
    case ErrorKind::damaged: failure.set_kind(wire::Failure::DAMAGED); break;
    case ErrorKind::deadline: failure.set_kind(wire::Failure::DEADLINE); break;
    case ErrorKind::not_quiet: failure.set_kind(wire::Failure::NOT_QUIET); break;
    case ErrorKind::not_found: failure.set_kind(wire::Failure::NOT_FOUND); break;
  }
  failure.set_step(error.step);
  failure.set_object(error.object);
  failure.set_cause(error.cause);
  return failure;
}

Error from_wire(const wire::Failure& failure) {
  ErrorKind kind = ErrorKind::permanent;
  switch (failure.kind()) {
    case wire::Failure::REFUSED: kind = ErrorKind::refused; break;
    case wire::Failure::TRANSIENT: kind = ErrorKind::transient; break;
    case wire::Failure::STORAGE_FULL: kind = ErrorKind::storage_full; break;
    case wire::Failure::DAMAGED: kind = ErrorKind::damaged; break;
    case wire::Failure::DEADLINE: kind = ErrorKind::deadline; break;
    case wire::Failure::NOT_QUIET: kind = ErrorKind::not_quiet; break;
    case wire::Failure::NOT_FOUND: kind = ErrorKind::not_found; break;
    default: break;  // a kind of a newer peer: permanent is the safe reading
  }
  return Error{kind, failure.step(), failure.object(), failure.cause()};
}

}  // namespace stillpoint
