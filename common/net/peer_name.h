// The name that a certificate vouches for. Any thread.
#pragma once

#include <openssl/types.h>

#include <string>

#include "common/result.h"

namespace stillpoint::net {

// The only common name of the certificate's subject: letters, digits, '.', '_' and '-', at most 64.
Result<std::string> certificate_name(const X509* certificate);

}  // namespace stillpoint::net
