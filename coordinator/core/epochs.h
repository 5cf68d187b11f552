// Which checkpoint to restart from. Pure reads; core's strand.
#pragma once

#include "coordinator/core/core.h"

namespace stillpoint::coordinator::epochs {

// The epochs that led to where the job is now: those of its incarnation, the one that this was restored from, those
// before it, and so on. A restart from an early checkpoint leaves the later ones behind: they are taken by name only.
std::set<Epoch> present_history(const CatalogState& catalog, const JobRecord& job);
std::set<Epoch> present_history(const Core& core, const JobRecord& job);
// The newest committed checkpoint of the present history, older than `before` when that is given. Control epochs are
// never chosen: they are restored only by name.
std::optional<Epoch> newest_committed(const CatalogState& catalog, const JobRecord& job,
                                      std::optional<Epoch> before = std::nullopt);
std::optional<Epoch> newest_committed(const Core& core, const JobRecord& job,
                                      std::optional<Epoch> before = std::nullopt);
// The newer ones of the present history that are passed over for it because they are damaged, in words for people;
// empty: none. Without one to take: all that are damaged.
std::string passed_over(const Core& core, const JobRecord& job, std::optional<Epoch> taken);
// The one asked for, or the newest; or why not.
Result<Epoch> choose(const Core& core, const JobRecord& job, std::optional<Epoch> from);

}  // namespace stillpoint::coordinator::epochs
