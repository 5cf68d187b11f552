// The stores that another host serves (peer_server.h), as a place for files. Threads: as BlobStore says.
#pragma once

#include <memory>

#include "gang.pb.h"
#include "node-daemon/store/remote/blob_store.h"
#include "node-daemon/store/remote/http_client.h"

namespace stillpoint::node {

// identity: this host's. caps: of what is put there; may be null. Nothing is asked of the peer yet.
std::shared_ptr<BlobStore> connect_peer(const wire::StorePeer& peer, const SiteIdentity& identity,
                                        std::shared_ptr<UploadCaps> caps = nullptr);

}  // namespace stillpoint::node
