// The flags that name the site's S3 store, and the store that they name.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>

#include "common/ids.h"
#include "node-daemon/store/remote/s3_store.h"

namespace stillpoint::node {

struct ObjectStoreFlags {
  S3Settings s3;
  bool virtual_host = false;
};

void add_flags(CLI::App& app, ObjectStoreFlags& flags);

// Null where none is named. Asks the store whether it can be used, and ends uploads that this host began and never
// finished. tls: directory where the credentials are unless flags say otherwise. caps: of what is put there; may be
// null.
Result<std::shared_ptr<BlobStore>> open_object_store(const ObjectStoreFlags& flags, const std::filesystem::path& tls,
                                                     const HostName& host, std::shared_ptr<UploadCaps> caps);

}  // namespace stillpoint::node
