// The site's certificate authority and the certificates of its daemons: EC P-256, keys readable by their owner alone.
// Blocking; any thread.
#pragma once

#include <filesystem>
#include <string>

#include "common/result.h"

namespace stillpoint::lab {

// Makes directory with ca.pem and ca-key.pem (0600).
Status make_authority(const std::filesystem::path& directory, const std::string& site);

// Makes directory with ca.pem, cert.pem and key.pem (0600): common name `name`, for both ends of a TLS session. What
// was there is replaced.
Status issue_certificate(const std::filesystem::path& authority, const std::string& name,
                         const std::filesystem::path& directory);

}  // namespace stillpoint::lab
