// The whole coordinator in one object: catalog, files, core, sessions with the hosts, API. main() runs one; tests too.
//
// open() makes everything or nothing; run() serves on the calling thread until stop(), which any thread may call.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "common/result.h"
#include "coordinator/catalog/restore.h"
#include "coordinator/core/coordinator.h"

namespace stillpoint::coordinator {

// The ways out of a catalog that is damaged or gone (catalog/restore.h), with the state directory locked: refused while
// a coordinator runs on it.
Result<PutBack> put_catalog_back(const std::filesystem::path& state, const std::filesystem::path& backup);
Result<PutBack> make_catalog_anew(const std::filesystem::path& state);

struct ServerOptions {
  std::filesystem::path state;       // directory; locked while we run
  std::filesystem::path api_socket;  // empty: "api.sock" in the state directory
  std::string listen;                // ADDR:PORT for the hosts
  std::filesystem::path tls;         // ca.pem, cert.pem, key.pem
  Settings settings;
};

class Server {
 public:
  static Result<std::unique_ptr<Server>> open(const ServerOptions& options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // signals: SIGTERM and SIGINT mean stop().
  void run(bool signals);
  void stop();
  std::uint16_t port() const;  // where hosts connect

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace stillpoint::coordinator
