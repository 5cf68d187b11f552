// Serves this host's checkpoint images to the site's other hosts, and takes their partner copies: HTTP/1.1 over mutual
// TLS 1.3 (docs/protocol.md).
//
//   GET, HEAD /HOST/packs/ID.pack, /HOST/images/J/E/FILE   a file, or the range of it that is asked
//   GET /HOST/packs/, /HOST/images/…/                      names there, a line each
//   PUT the same                                           by HOST alone: into its mirror here (store/mirrors.h)
//
// Threads: has its own; everything may be called from any thread.
#pragma once

#include <memory>
#include <string>

#include "common/net/tls_context.h"
#include "node-daemon/store/mirrors.h"

namespace stillpoint::node {

class PeerServer {
 public:
  // endpoint: ADDRESS:PORT, port 0: any free one. hosts: the directory of all stores. mirrors: borrowed.
  static Result<std::unique_ptr<PeerServer>> listen(const net::TlsContext& tls, const std::string& endpoint,
                                                    Files& files, std::filesystem::path hosts, Mirrors& mirrors);
  // Ends what is under way.
  ~PeerServer();
  PeerServer(const PeerServer&) = delete;
  PeerServer& operator=(const PeerServer&) = delete;

  const std::string& endpoint() const;  // with the port that it has

 private:
  struct Impl;
  explicit PeerServer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;
};

}  // namespace stillpoint::node
