#include "common/descriptor_limit.h"

#include <sys/resource.h>

#include <algorithm>

namespace stillpoint {

void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 65'536);
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace stillpoint
