// TLS on a connected, non-blocking socket that somebody else owns and waits for. OpenSSL reads and writes the socket
// itself, and keeps no buffer between records: an idle session costs little memory, and a small frame one system call.
//
// One owner, one thread at a time. Nothing blocks. The socket must stay open until the stream is destroyed.
#pragma once

#include <openssl/types.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "common/result.h"

namespace stillpoint::net {

class TlsStream {
 public:
  enum class Side { server, client };
  enum class Outcome {
    done,
    wants_read,   // call again when the socket can be read
    wants_write,  // call again when it can be written
    ended,        // the peer closed it
    failed,       // why() says it; the stream is of no more use
  };

  // A context that has what the side needs; it is kept. Throws std::bad_alloc.
  TlsStream(SSL_CTX* context, int socket, Side side);

  Outcome handshake();
  // bytes: what came, at least one with `done`.
  Outcome read(char* to, std::size_t room, std::size_t& bytes);
  // bytes: how much of data went out, at least one with `done`; the rest comes with the next call. After wants_… the
  // next call must have the same bytes.
  Outcome write(std::string_view data, std::size_t& bytes);
  // More can be read although the socket may stay silent.
  bool has_pending() const;

  const std::string& why() const { return why_; }
  // Why the peer's certificate was refused; empty: it was not.
  std::string refusal() const;
  // Null before the handshake; the stream's.
  const X509* peer_certificate() const;

 private:
  struct Freer {
    void operator()(SSL* ssl) const;
  };
  Outcome outcome(int result);

  std::unique_ptr<SSL, Freer> ssl_;
  std::string why_;
};

}  // namespace stillpoint::net
