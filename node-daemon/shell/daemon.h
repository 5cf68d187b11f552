// The running node daemon: owns the core and its strand, carries effects out through the adapters, and turns what
// comes back into events. run() takes the calling thread; stop() from any other, or from a handler.
#pragma once

#include <functional>
#include <memory>

#include "node-daemon/core/host.h"
#include "node-daemon/net/coordinator_link.h"
#include "node-daemon/network/gang_network.h"
#include "node-daemon/shell/state_directory.h"
#include "node-daemon/store/image_store.h"
#include "node-daemon/store/upload_caps.h"

namespace stillpoint::node {

struct DaemonParts {
  HostSettings settings;
  std::filesystem::path guest_image;
  std::string coordinator;  // ADDR:PORT
  std::optional<net::TlsContext> tls;
  std::unique_ptr<StateDirectory> state;
  std::unique_ptr<DomainDriver> driver;
  std::unique_ptr<ImageStore> store;
  std::unique_ptr<GangNetworks> networks;
  std::shared_ptr<UploadCaps> upload_caps;     // the store's, too; may be null
  std::optional<std::uint64_t> store_reserve;  // bytes; nothing: the larger of 1 GiB and 5 % of the file system
};

class Daemon {
 public:
  explicit Daemon(DaemonParts parts);
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  // Takes up what runs here and serves until SIGTERM, SIGINT or stop(). The guests run on.
  Status run();
  void stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace stillpoint::node
