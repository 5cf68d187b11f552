// The flags that say what the upload of checkpoints may take from the jobs of this host. main()'s alone.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>

#include "node-daemon/store/upload_caps.h"

namespace stillpoint::node {

// limits must outlive the parsing.
void add_flags(CLI::App& app, UploadLimits& limits);
// Null: there are no limits.
std::shared_ptr<UploadCaps> make_upload_caps(const UploadLimits& limits);

}  // namespace stillpoint::node
