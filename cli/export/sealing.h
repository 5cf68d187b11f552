// How the records of an exported checkpoint are protected (docs/export-format.md): sealed with AES-256-GCM under a key
// made of a passphrase with scrypt; or, in a plain file, with digests alone. All of it OpenSSL's.
//
// Threads: an object belongs to one.
#pragma once

#include <openssl/evp.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/result.h"

namespace stillpoint::cli {

inline constexpr std::size_t kTagBytes = 16;
inline constexpr unsigned kLeastCost = 10, kMostCost = 18;  // log2 of scrypt's N: 1 MiB to 256 MiB of memory
inline constexpr unsigned kCost = 17;

std::string sha256(std::string_view bytes);

// SHA-256 of what comes bit by bit.
class RunningDigest {
 public:
  RunningDigest();
  void add(std::string_view bytes);
  std::string finish();  // once, last

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context_;
};

class Sealing {
 public:
  // Without a passphrase.
  explicit Sealing() = default;
  // Takes some tenths of a second and as much memory as cost says, by intention.
  static Result<Sealing> from_passphrase(std::string_view passphrase, std::string_view salt, unsigned cost);
  Sealing(Sealing&&) = default;
  Sealing& operator=(Sealing&&) = default;

  bool sealed() const { return sealed_; }
  // By which a reader knows that its passphrase is the right one: 16 bytes; zeros without one.
  std::string check() const;
  // Appends the protected bytes and their tag. number: never the same again under this key. context: vouched for, not
  // written.
  Status seal(std::uint64_t number, std::string_view context, std::string_view plain, std::string& out);
  // damaged if a bit of it, of the context or of the number is another.
  Result<std::string> open(std::uint64_t number, std::string_view context, std::string_view sealed);

 private:
  struct FreeCipher {
    void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
  };
  using Cipher = std::unique_ptr<EVP_CIPHER_CTX, FreeCipher>;

  bool sealed_ = false;
  std::string check_ = std::string(16, '\0');
  Cipher seal_, open_;
};

}  // namespace stillpoint::cli
