#include "common/result.h"

#include <cerrno>
#include <system_error>

namespace stillpoint {

std::string_view name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::refused: return "refused";
    case ErrorKind::transient: return "transient";
    case ErrorKind::permanent: return "permanent";
    case ErrorKind::storage_full: return "storage-full";
    case ErrorKind::damaged: return "damaged";
    case ErrorKind::deadline: return "deadline";
    case ErrorKind::not_quiet: return "not-quiet";
    case ErrorKind::not_found: return "not-found";
  }
  return "unknown";
}

std::string Error::message() const {
  std::string text = step;
  if (!object.empty()) text += (text.empty() ? "" : " of ") + object;
  if (!text.empty()) text += ": ";
  return text + cause;
}

Error errno_error(std::string step, std::string object, int errno_value) {
  ErrorKind kind = ErrorKind::permanent;
  if (errno_value == ENOSPC || errno_value == EDQUOT) kind = ErrorKind::storage_full;
  if (errno_value == EAGAIN || errno_value == EINTR || errno_value == EBUSY) kind = ErrorKind::transient;
  if (errno_value == ENOENT) kind = ErrorKind::not_found;
  if (errno_value == ETIMEDOUT) kind = ErrorKind::deadline;
  return Error{kind, std::move(step), std::move(object), std::generic_category().message(errno_value)};
}

std::ostream& operator<<(std::ostream& out, const Error& error) { return out << error.message(); }

void throw_exception_from_error(const Error& error, const boost::source_location&) {
  throw std::logic_error("value() of a failed result: " + error.message());
}

}  // namespace stillpoint
