// What one end of the mutual TLS between coordinator and hosts needs: the site's CA, its own certificate and key.
// TLS 1.3 only, no resumption: each session proves both names anew. Cheap to copy (shares the loaded context); the
// context is not changed after load(), so copies may be used from any thread.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "common/result.h"

namespace boost::asio::ssl {
class context;
}

namespace stillpoint::net {

// The name in the coordinator's certificate. No host may have it.
inline constexpr std::string_view kCoordinatorName = "coordinator";

enum class TlsRole { coordinator, host };

class TlsContext {
 public:
  // Reads ca.pem, cert.pem and key.pem of directory. Refused: a key that group or others may read, a key that does
  // not belong to the certificate, a certificate whose name does not fit the role. Blocking.
  static Result<TlsContext> load(const std::filesystem::path& directory, TlsRole role);

  TlsRole role() const { return role_; }
  const std::string& name() const { return name_; }  // of the own certificate
  boost::asio::ssl::context& context() const { return *context_; }

 private:
  TlsContext(TlsRole role, std::string name, std::shared_ptr<boost::asio::ssl::context> context)
      : role_(role), name_(std::move(name)), context_(std::move(context)) {}

  TlsRole role_;
  std::string name_;
  std::shared_ptr<boost::asio::ssl::context> context_;  // shared: every session keeps what it was made from
};

}  // namespace stillpoint::net
