// What a collection did, for the administrator. Any thread.
#pragma once

#include <string>

#include "node-daemon/store/chunk_store.h"

namespace stillpoint::node {

// owner: the host whose images those are; where: the place, for people.
void log_collection(const Result<CollectReport>& report, const std::string& owner, const std::string& where);

}  // namespace stillpoint::node
