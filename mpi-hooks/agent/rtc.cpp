#include "mpi-hooks/agent/rtc.h"

#include <fcntl.h>
#include <linux/rtc.h>
#include <sys/ioctl.h>

#include <ctime>

#include "common/fd.h"
#include "mpi-hooks/agent/clock.h"

namespace stillpoint::agent {

std::optional<std::int64_t> rtc_skew() {
  const Fd chip(::open("/dev/rtc0", O_RDONLY | O_CLOEXEC));
  rtc_time t{};
  if (!chip || ::ioctl(chip.get(), RTC_RD_TIME, &t) != 0) return std::nullopt;
  tm fields{};
  fields.tm_year = t.tm_year;
  fields.tm_mon = t.tm_mon;
  fields.tm_mday = t.tm_mday;
  fields.tm_hour = t.tm_hour;
  fields.tm_min = t.tm_min;
  fields.tm_sec = t.tm_sec;
  return static_cast<std::int64_t>(::timegm(&fields)) - monotonic_ms() / 1000;
}

}  // namespace stillpoint::agent
