#include "common/net/tls_stream.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>

namespace stillpoint::net {
namespace {

// OpenSSL's own socket BIO raises SIGPIPE when the peer is gone; a library must not.
int socket_of(BIO* bio) { return static_cast<int>(reinterpret_cast<std::intptr_t>(BIO_get_data(bio))); }

int done_or_retry(BIO* bio, ssize_t result, void (*retry)(BIO*)) {
  BIO_clear_retry_flags(bio);
  if (result < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) retry(bio);
  return static_cast<int>(result);
}

int bio_write(BIO* bio, const char* data, int size) {
  return done_or_retry(bio, ::send(socket_of(bio), data, static_cast<std::size_t>(size), MSG_NOSIGNAL),
                       [](BIO* b) { BIO_set_retry_write(b); });
}

int bio_read(BIO* bio, char* data, int size) {
  const ssize_t result = ::recv(socket_of(bio), data, static_cast<std::size_t>(size), 0);
  if (result == 0) BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
  return done_or_retry(bio, result, [](BIO* b) { BIO_set_retry_read(b); });
}

long bio_control(BIO* bio, int command, long, void*) {
  if (command == BIO_CTRL_EOF) return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0 ? 1 : 0;
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

const BIO_METHOD* socket_method() {
  static const BIO_METHOD* const method = [] {  // for as long as the process
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket without SIGPIPE");
    if (made == nullptr) throw std::bad_alloc();
    BIO_meth_set_write(made, bio_write);
    BIO_meth_set_read(made, bio_read);
    BIO_meth_set_ctrl(made, bio_control);
    return made;
  }();
  return method;
}

int bounded(std::size_t size) { return static_cast<int>(std::min<std::size_t>(size, std::numeric_limits<int>::max())); }

}  // namespace

void TlsStream::Freer::operator()(SSL* ssl) const { SSL_free(ssl); }

TlsStream::TlsStream(SSL_CTX* context, int socket, Side side) : ssl_(SSL_new(context)) {
  BIO* bio = BIO_new(socket_method());
  if (!ssl_ || bio == nullptr) {
    BIO_free(bio);
    throw std::bad_alloc();
  }
  BIO_set_data(bio, reinterpret_cast<void*>(static_cast<std::intptr_t>(socket)));
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl_.get(), bio, bio);
  SSL_set_mode(ssl_.get(),
               SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_set_read_ahead(ssl_.get(), 1);
  if (side == Side::server) SSL_set_accept_state(ssl_.get());
  else SSL_set_connect_state(ssl_.get());
}

TlsStream::Outcome TlsStream::handshake() {
  ERR_clear_error();
  return outcome(SSL_do_handshake(ssl_.get()));
}

TlsStream::Outcome TlsStream::read(char* to, std::size_t room, std::size_t& bytes) {
  ERR_clear_error();
  const int result = SSL_read(ssl_.get(), to, bounded(room));
  bytes = result > 0 ? static_cast<std::size_t>(result) : 0;
  return outcome(result);
}

TlsStream::Outcome TlsStream::write(std::string_view data, std::size_t& bytes) {
  ERR_clear_error();
  const int result = SSL_write(ssl_.get(), data.data(), bounded(data.size()));
  bytes = result > 0 ? static_cast<std::size_t>(result) : 0;
  return outcome(result);
}

bool TlsStream::has_pending() const { return SSL_has_pending(ssl_.get()) == 1; }

std::string TlsStream::refusal() const {
  const long verdict = SSL_get_verify_result(ssl_.get());
  return verdict == X509_V_OK ? "" : X509_verify_cert_error_string(verdict);
}

const X509* TlsStream::peer_certificate() const { return SSL_get0_peer_certificate(ssl_.get()); }

TlsStream::Outcome TlsStream::outcome(int result) {
  const int system = errno;
  if (result > 0) return Outcome::done;
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ: return Outcome::wants_read;
    case SSL_ERROR_WANT_WRITE: return Outcome::wants_write;
    case SSL_ERROR_ZERO_RETURN: return Outcome::ended;
    case SSL_ERROR_SYSCALL: {
      why_ = system != 0 ? std::strerror(system) : "the connection broke";
      return Outcome::failed;
    }
    default: break;
  }
  const unsigned long code = ERR_peek_error();
  if (ERR_GET_LIB(code) == ERR_LIB_SSL && ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
    return Outcome::ended;  // without a farewell: so every session ends
  const char* const reason = ERR_reason_error_string(code);
  why_ = reason != nullptr ? reason : "TLS failed";
  return Outcome::failed;
}

}  // namespace stillpoint::net
