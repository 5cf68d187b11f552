// The other end of stillpoint.h: what programs ask of the helper. Inert without an agent.
#include "mpi-hooks/pmpi/runtime.h"

using namespace stillpoint::hooks;

namespace {
constexpr Call kForbid{"Pstillpoint_forbid", CallKind::gate};
}  // namespace

STILLPOINT_EXPORT int stillpoint_hook_present(void) { return helper.started() ? 1 : 0; }

STILLPOINT_EXPORT void stillpoint_hook_wish(int kind) {
  if (helper.started()) helper.wish(kind == 1 ? RankWish::good_moment : RankWish::checkpoint);
}

STILLPOINT_EXPORT int stillpoint_hook_wanted(void) { return helper.wanted() ? 1 : 0; }

// Inside an MPI call (from a callback of libmpi's) no new call begins, so there is nothing to wait for.
STILLPOINT_EXPORT void stillpoint_hook_forbid(unsigned deadline_ms) {
  Thread& thread = self;
  if (helper.started() && outermost(thread)) helper.forbid(thread, kForbid, std::int64_t{deadline_ms} * 1'000'000);
}

STILLPOINT_EXPORT void stillpoint_hook_allow(void) { helper.allow(); }

STILLPOINT_EXPORT int stillpoint_hook_callbacks(void (*before)(void*), void (*after)(void*), void (*restarted)(void*),
                                                void* context) {
  return helper.started() && helper.add_callbacks({before, after, restarted, context}) ? 0 : -1;
}

STILLPOINT_EXPORT unsigned long long stillpoint_hook_epoch(void) { return helper.epoch(); }
STILLPOINT_EXPORT unsigned stillpoint_hook_restarts(void) { return helper.restarts(); }
