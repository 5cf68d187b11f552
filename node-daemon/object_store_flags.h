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

struct ObjectStore {
  std::shared_ptr<BlobStore> store;  // null where none is named
  // What is stored here can go there. Not where the server refuses us: then nothing new relies on it, but it is known
  // that there is one, and what was put there earlier is not taken for deleted.
  bool usable = false;
};

// Asks the store whether it can be used, and ends uploads that this host began and never finished. A server that does
// not answer, or refuses, is logged: the machines of this host may never need it. An error: flags or a file of
// credentials that cannot be. tls: directory where the credentials are unless flags say otherwise. caps: of what is
// put there; may be null.
Result<ObjectStore> open_object_store(const ObjectStoreFlags& flags, const std::filesystem::path& tls,
                                      const HostName& host, std::shared_ptr<UploadCaps> caps);

}  // namespace stillpoint::node
