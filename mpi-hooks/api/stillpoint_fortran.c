/* What stillpoint.f90 binds to: weak symbols and inline functions are C's. Compile it into the Fortran program. */
#include "stillpoint.h"

int stillpoint_f_present(void) { return stillpoint_present(); }
int stillpoint_f_request_checkpoint(void) { return stillpoint_request_checkpoint(); }
int stillpoint_f_good_moment(void) { return stillpoint_good_moment(); }
void stillpoint_f_forbid(int deadline_ms) { stillpoint_forbid(deadline_ms < 0 ? 0u : (unsigned)deadline_ms); }
void stillpoint_f_allow(void) { stillpoint_allow(); }
int stillpoint_f_checkpoint_wanted(void) { return stillpoint_checkpoint_wanted(); }
int stillpoint_f_on_checkpoint(void (*before)(void*), void (*after)(void*), void (*restarted)(void*), void* context) {
  return stillpoint_on_checkpoint(before, after, restarted, context);
}
long long stillpoint_f_epoch(void) { return (long long)stillpoint_epoch(); }
int stillpoint_f_restarts(void) { return (int)stillpoint_restarts(); }
