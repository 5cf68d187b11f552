// Where a server listens, as people write it. Any thread.
#pragma once

#include <string>

#include "common/result.h"

namespace stillpoint::net {

struct HostPort {
  std::string host, port;  // the host without brackets
};

// ADDRESS:PORT or NAME:PORT; an IPv6 address in brackets.
Result<HostPort> split_endpoint(const std::string& endpoint);

}  // namespace stillpoint::net
