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

// Inside an MPI call (from a callback of libmpi's) it cannot wait for a checkpoint that is under way.
STILLPOINT_EXPORT void stillpoint_hook_forbid(unsigned deadline_ms) {
  if (!helper.started()) return;
  Thread& thread = self;
  const std::int64_t for_ns = std::int64_t{deadline_ms} * 1'000'000;
  if (outermost(thread)) helper.forbid(thread, kForbid, for_ns);
  else helper.forbid_from_inside(for_ns);
}

STILLPOINT_EXPORT void stillpoint_hook_allow(void) { helper.allow(); }

STILLPOINT_EXPORT int stillpoint_hook_callbacks(void (*before)(void*), void (*after)(void*), void (*restarted)(void*),
                                                void* context) {
  return helper.started() && helper.add_callbacks({before, after, restarted, context}) ? 0 : -1;
}

STILLPOINT_EXPORT unsigned long long stillpoint_hook_epoch(void) { return helper.epoch(); }
STILLPOINT_EXPORT unsigned stillpoint_hook_restarts(void) { return helper.restarts(); }
