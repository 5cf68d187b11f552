#include "common/net/tls_context.h"

#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/stat.h>

#include <algorithm>
#include <boost/asio/ssl/context.hpp>

#include "common/net/peer_name.h"

namespace stillpoint::net {
namespace {

namespace ssl = boost::asio::ssl;

Error bad(const std::filesystem::path& path, std::string cause) {
  return Error{ErrorKind::permanent, "loading", path.string(), std::move(cause)};
}

Status check_key_mode(const std::filesystem::path& key) {
  struct stat info {};
  if (::stat(key.c_str(), &info) != 0) return errno_error("loading", key.string(), errno);
  if ((info.st_mode & 077) != 0) return bad(key, "group or others may read this private key; chmod 600 it");
  return {};
}

}  // namespace

Result<std::string> certificate_name(const X509* certificate) {
  auto bad_name = [](std::string cause) {
    return Error{ErrorKind::refused, "reading", "certificate", std::move(cause)};
  };
  const X509_NAME* subject = X509_get_subject_name(certificate);
  const int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  if (at < 0) return bad_name("it has no common name");
  if (X509_NAME_get_index_by_NID(subject, NID_commonName, at) >= 0) return bad_name("it has several common names");
  unsigned char* text = nullptr;
  const int size = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
  if (size < 0) return bad_name("its common name cannot be read");
  const std::string name(text, text + size);
  OPENSSL_free(text);
  const bool plain = std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  });
  if (name.empty() || name.size() > 64 || !plain) return bad_name("its common name is not a plain host name");
  return name;
}

Result<TlsContext> TlsContext::load(const std::filesystem::path& directory, TlsRole role) {
  const auto ca = directory / "ca.pem", certificate = directory / "cert.pem", key = directory / "key.pem";
  if (auto mode = check_key_mode(key); !mode) return mode.error();

  auto context = std::make_shared<ssl::context>(ssl::context::tls);
  SSL_CTX* native = context->native_handle();
  SSL_CTX_set_min_proto_version(native, TLS1_3_VERSION);
  SSL_CTX_set_num_tickets(native, 0);
  SSL_CTX_set_session_cache_mode(native, SSL_SESS_CACHE_OFF);
  boost::system::error_code failed;
  // Only the site's CA counts, never the system's.
  if (context->load_verify_file(ca.string(), failed); failed) return bad(ca, failed.message());
  if (context->use_certificate_chain_file(certificate.string(), failed); failed)
    return bad(certificate, failed.message());
  if (context->use_private_key_file(key.string(), ssl::context::pem, failed); failed) return bad(key, failed.message());
  if (SSL_CTX_check_private_key(native) != 1) return bad(key, "the key does not belong to cert.pem");
  context->set_verify_mode(ssl::verify_peer | ssl::verify_fail_if_no_peer_cert);

  auto own = certificate_name(SSL_CTX_get0_certificate(native));
  if (!own) return bad(certificate, own.error().cause);
  if ((role == TlsRole::coordinator) != (*own == kCoordinatorName))
    return bad(certificate,
               "its name is \"" + *own + "\": only the coordinator's certificate is called \"coordinator\"");
  return TlsContext(role, *own, std::move(context));
}

}  // namespace stillpoint::net
