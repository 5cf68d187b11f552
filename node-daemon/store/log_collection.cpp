#include "node-daemon/store/log_collection.h"

#include "common/log.h"

namespace stillpoint::node {

void log_collection(const Result<CollectReport>& report, const std::string& owner, const std::string& where) {
  if (!report)
    return log_warn("space of deleted images not freed",
                    {{"of", owner}, {"at", where}, {"cause", report.error().message()}});
  for (const Error& problem : report->problems)
    log_warn("not all space freed", {{"of", owner}, {"at", where}, {"cause", problem.message()}});
  if (report->left_off && report->left_off->kind != ErrorKind::refused)  // else it was stopped
    log_info("packs not written anew yet", {{"of", owner}, {"at", where}, {"cause", report->left_off->message()}});
  if (report->packs_removed + report->packs_compacted > 0)
    log_info("space of deleted images freed", {{"of", owner},
                                               {"at", where},
                                               {"packs_removed", std::to_string(report->packs_removed)},
                                               {"packs_compacted", std::to_string(report->packs_compacted)},
                                               {"bytes_before", std::to_string(report->bytes_before)},
                                               {"bytes_after", std::to_string(report->bytes_after)}});
}

}  // namespace stillpoint::node
