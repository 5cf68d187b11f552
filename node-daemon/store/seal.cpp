#include "node-daemon/store/seal.h"

#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <cstring>

namespace stillpoint::node {
namespace {

GcmNonce nonce_of(std::uint64_t number) {
  GcmNonce nonce{};
  for (std::size_t i = 0; i < 8; ++i) nonce[i] = static_cast<unsigned char>(number >> (8 * i));
  return nonce;
}

const unsigned char* raw(std::string_view bytes) { return reinterpret_cast<const unsigned char*>(bytes.data()); }

Error no_cipher(const char* step) { return {ErrorKind::permanent, step, "AES-256-GCM", "the library refused"}; }

}  // namespace

std::string hex(std::string_view bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const char c : bytes) {
    text.push_back(kDigits[static_cast<unsigned char>(c) >> 4]);
    text.push_back(kDigits[static_cast<unsigned char>(c) & 15]);
  }
  return text;
}

Result<Id> random_id() {
  Id id;
  if (RAND_bytes(id.data(), static_cast<int>(id.size())) != 1)
    return Error{ErrorKind::transient, "draw random bytes", "", "the system has none"};
  return id;
}

Result<Key> random_key() {
  Key key;
  if (RAND_priv_bytes(key.data(), static_cast<int>(key.size())) != 1)
    return Error{ErrorKind::transient, "draw random bytes", "", "the system has none"};
  return key;
}

Key derive(const Key& key, std::string_view purpose, std::string_view id) {
  const std::string text = std::string(purpose) + '\0' + std::string(id);
  Key derived{};
  unsigned length = 0;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), raw(text), text.size(), derived.data(), &length);
  return derived;
}

Status Sealer::seal(std::uint64_t nonce, std::string_view context, std::string_view plain, std::string& out) {
  const std::size_t start = out.size();
  out.resize(start + plain.size() + kTagBytes);
  return seal_to(nonce, context, plain, out.data() + start);
}

Status Sealer::seal_to(std::uint64_t nonce, std::string_view context, std::string_view plain, char* at) {
  GcmTag tag{};
  const std::size_t size = plain.size();
  if (!gcm_->seal(nonce_of(nonce), context, plain, at, tag)) return no_cipher("seal");
  std::memcpy(at + size, tag.data(), tag.size());
  return {};
}

Result<std::string> Sealer::open(std::uint64_t nonce, std::string_view context, std::string_view sealed) {
  std::string bytes(sealed);
  auto plain = open_in_place(nonce, context, bytes);
  if (!plain) return plain.error();
  bytes.resize(plain->size());
  return bytes;
}

Result<std::string_view> Sealer::open_in_place(std::uint64_t nonce, std::string_view context, std::string& sealed) {
  const Error damaged{ErrorKind::damaged, "open", "sealed bytes", "they are not what was written"};
  if (sealed.size() < kTagBytes) return damaged;
  const std::string_view bytes = std::string_view(sealed).substr(0, sealed.size() - kTagBytes);
  GcmTag tag{};
  std::memcpy(tag.data(), bytes.data() + bytes.size(), tag.size());
  switch (gcm_->open(nonce_of(nonce), context, bytes, tag, sealed.data())) {
    case Gcm::Opened::whole: return bytes;
    case Gcm::Opened::damaged: return damaged;
    case Gcm::Opened::refused: break;
  }
  return no_cipher("open");
}

// GMAC with a fixed nonce is GHASH under a secret with a secret added: the universal hash wanted, from a public
// interface. Repeating the nonce would give the secret away to somebody who sees tags; nobody outside does.
Fingerprint PageHasher::operator()(std::string_view page) {
  GcmTag tag{};
  if (!gcm_->seal({}, page, {}, nullptr, tag)) std::abort();  // a false fingerprint would lose data
  Fingerprint fingerprint;
  std::memcpy(&fingerprint.high, tag.data(), 8);
  std::memcpy(&fingerprint.low, tag.data() + 8, 8);
  return fingerprint;
}

}  // namespace stillpoint::node
