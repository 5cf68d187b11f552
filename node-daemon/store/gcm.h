// AES-256-GCM under one key, as seal.h needs it. There are two, which give the same bytes: Intel's multi-buffer
// library's (libipsec-mb, where it was there to build with), with the widest instructions that the processor has; and
// OpenSSL's, whose version 3.0 (Debian 12) has none wider than 128 bits for this, and takes four times as long.
//
// Threads: an object belongs to one at a time; the functions may be called by any.
#pragma once

#include <array>
#include <memory>
#include <string_view>

namespace stillpoint::node {

using GcmKey = std::array<unsigned char, 32>;
using GcmNonce = std::array<unsigned char, 12>;
using GcmTag = std::array<unsigned char, 16>;

class Gcm {
 public:
  virtual ~Gcm() = default;
  // to: plain.size() bytes, which may be where plain lies. context: authenticated, not sealed. False: the library
  // refused, for want of memory.
  [[nodiscard]] virtual bool seal(const GcmNonce& nonce, std::string_view context, std::string_view plain, char* to,
                                  GcmTag& tag) = 0;
  enum class Opened { whole, damaged, refused };
  // The same the other way; unless the answer is `whole`, what is in `to` is of no use.
  [[nodiscard]] virtual Opened open(const GcmNonce& nonce, std::string_view context, std::string_view sealed,
                                    const GcmTag& tag, char* to) = 0;
};

// The faster one that there is.
std::unique_ptr<Gcm> make_gcm(const GcmKey& key);
std::unique_ptr<Gcm> openssl_gcm(const GcmKey& key);
// Null where it cannot be used: not built in, or a processor without AES instructions.
std::unique_ptr<Gcm> ipsec_mb_gcm(const GcmKey& key);

}  // namespace stillpoint::node
