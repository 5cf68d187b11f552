// Runtime failures are values: Result<T> holds a T or an Error that says which step failed on what, why, and whether
// trying again can help. Exceptions end at the adapter that met them. Values; any thread.
#pragma once

#include <boost/system/result.hpp>
#include <ostream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace stillpoint {

enum class ErrorKind {
  refused,       // the request makes no sense in this state; nothing was changed
  transient,     // may work when tried again
  permanent,     // trying again will not help
  storage_full,  // no room; the object says where
  damaged,       // data does not match its digest
  deadline,      // did not happen in time
  not_quiet,     // a channel did not come to rest
  not_found,     // no such job, checkpoint, host, file
};

std::string_view name(ErrorKind kind);

struct Error {
  ErrorKind kind = ErrorKind::permanent;
  std::string step;    // what was being done: "capture"
  std::string object;  // to what: "guest 1 of j7", a path
  std::string cause;   // what went wrong, and what to do where that is known

  // "capture of guest 1 of j7: no space left on device"
  std::string message() const;
  bool operator==(const Error&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Error& error);

// The Error for the current errno.
Error errno_error(std::string step, std::string object, int errno_value);

// boost::system::result asks for this when value() is called on a failure: a bug in the caller.
[[noreturn]] void throw_exception_from_error(const Error& error, const boost::source_location& where);

template <class T>
using Result = boost::system::result<T, Error>;
using Status = Result<void>;

}  // namespace stillpoint
