// The store's cryptography: AES-256-GCM (gcm.h), and what derives its keys, which is OpenSSL's.
//
// Bytes on disk are sealed with AES-256-GCM: its tag is their digest too, so that a flipped bit, another file in a
// file's place and a forgery are all found by the same check, before any byte is used. Every file has a key of its own,
// derived from the site's key and the file's random id; within a file the nonce is a counter. So no nonce meets a key
// twice, whatever is written again after a crash.
//
// Pages are recognised by a keyed universal hash, GHASH under a secret of the site, which runs at the speed of the
// carry-less multiplication: several times faster than SHA-256 or BLAKE2. A fast unkeyed hash (XXH128) would do against
// chance, but one guest of a host could then make a page that stands for another guest's. Against somebody who does not
// know the secret, two different pages meet with a probability below 2^-119: fingerprints never leave the store
// unsealed, and are never taken for proof of a byte's integrity, which is the seal's part.
//
// Threads: values may be used by any thread, an object by one at a time.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/result.h"
#include "node-daemon/store/gcm.h"

namespace stillpoint::node {

inline constexpr std::size_t kTagBytes = 16;

using Key = std::array<unsigned char, 32>;
using Id = std::array<unsigned char, 16>;  // random

struct Fingerprint {
  std::uint64_t high = 0, low = 0;
  bool operator==(const Fingerprint&) const = default;
};

std::string hex(std::string_view bytes);
template <std::size_t N>
std::string_view as_text(const std::array<unsigned char, N>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), N};
}
Result<Id> random_id();
Result<Key> random_key();

// HMAC-SHA256 of purpose and id under the key.
Key derive(const Key& key, std::string_view purpose, std::string_view id);

// Seals and opens pieces under one key.
class Sealer {
 public:
  explicit Sealer(const Key& key) : gcm_(make_gcm(key)) {}
  // Appends the sealed bytes and their tag. A nonce is for one piece, for ever. context: sealed with it, not stored.
  Status seal(std::uint64_t nonce, std::string_view context, std::string_view plain, std::string& out);
  // The same, `at` a place with room for plain.size() + kTagBytes, which may be where plain lies.
  Status seal_to(std::uint64_t nonce, std::string_view context, std::string_view plain, char* at);
  // damaged if a single bit of it, of the context or of the key is another.
  Result<std::string> open(std::uint64_t nonce, std::string_view context, std::string_view sealed);
  // The same where it lies: what is given is a part of `sealed`, which after an error holds nothing of use.
  Result<std::string_view> open_in_place(std::uint64_t nonce, std::string_view context, std::string& sealed);

 private:
  std::unique_ptr<Gcm> gcm_;
};

class PageHasher {
 public:
  explicit PageHasher(const Key& secret) : gcm_(make_gcm(secret)) {}
  Fingerprint operator()(std::string_view page);

 private:
  std::unique_ptr<Gcm> gcm_;
};

}  // namespace stillpoint::node
