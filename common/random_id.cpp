#include "common/random_id.h"

#include <sys/random.h>

#include <cerrno>

namespace stillpoint {

Result<std::string> random_id() {
  unsigned char bytes[16];
  if (::getrandom(bytes, sizeof bytes, 0) != sizeof bytes) return errno_error("getrandom", "", errno);
  std::string id;
  for (unsigned char b : bytes) {
    id += "0123456789abcdef"[b >> 4];
    id += "0123456789abcdef"[b & 15];
  }
  return id;
}

}  // namespace stillpoint
