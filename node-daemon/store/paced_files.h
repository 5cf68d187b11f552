// Files elsewhere that are written as if they were here, a directory that all hosts share: what goes there counts as
// sent. Threads: as files.h says.
#pragma once

#include <memory>

#include "node-daemon/store/files.h"
#include "node-daemon/store/upload_caps.h"

namespace stillpoint::node {

// files and caps: borrowed.
std::unique_ptr<Files> make_paced_files(Files& files, UploadCaps& caps);

}  // namespace stillpoint::node
