#include "node-daemon/store/seal.h"

#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <cstring>

namespace stillpoint::node {
namespace {

constexpr std::size_t kNonceBytes = 12;

std::array<unsigned char, kNonceBytes> nonce_bytes(std::uint64_t nonce) {
  std::array<unsigned char, kNonceBytes> bytes{};
  for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<unsigned char>(nonce >> (8 * i));
  return bytes;
}

const unsigned char* raw(std::string_view bytes) { return reinterpret_cast<const unsigned char*>(bytes.data()); }
unsigned char* raw(std::string& bytes) { return reinterpret_cast<unsigned char*>(bytes.data()); }
int size_of(std::string_view bytes) { return static_cast<int>(bytes.size()); }

Error no_cipher(const char* step) { return {ErrorKind::permanent, step, "AES-256-GCM", "OpenSSL refused"}; }

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

Sealer::Sealer(const Key& key) : seal_(EVP_CIPHER_CTX_new()), open_(EVP_CIPHER_CTX_new()) {
  EVP_EncryptInit_ex(seal_.get(), EVP_aes_256_gcm(), nullptr, key.data(), nullptr);
  EVP_DecryptInit_ex(open_.get(), EVP_aes_256_gcm(), nullptr, key.data(), nullptr);
}

Status Sealer::seal(std::uint64_t nonce, std::string_view context, std::string_view plain, std::string& out) {
  const std::size_t start = out.size();
  out.resize(start + plain.size() + kTagBytes);
  return seal_to(nonce, context, plain, out.data() + start);
}

Status Sealer::seal_to(std::uint64_t nonce, std::string_view context, std::string_view plain, char* at) {
  const auto iv = nonce_bytes(nonce);
  EVP_CIPHER_CTX* const cipher = seal_.get();
  auto* const to = reinterpret_cast<unsigned char*>(at);
  int length = 0, last = 0;
  const bool done = EVP_EncryptInit_ex(cipher, nullptr, nullptr, nullptr, iv.data()) == 1 &&
                    EVP_EncryptUpdate(cipher, nullptr, &length, raw(context), size_of(context)) == 1 &&
                    EVP_EncryptUpdate(cipher, to, &length, raw(plain), size_of(plain)) == 1 &&
                    EVP_EncryptFinal_ex(cipher, to + length, &last) == 1 &&
                    EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_GET_TAG, kTagBytes, to + plain.size()) == 1;
  if (!done) return no_cipher("seal");
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
  const auto iv = nonce_bytes(nonce);
  EVP_CIPHER_CTX* const cipher = open_.get();
  const std::string_view bytes = std::string_view(sealed).substr(0, sealed.size() - kTagBytes);
  unsigned char* const at = raw(sealed);
  int length = 0, last = 0;
  const bool done = EVP_DecryptInit_ex(cipher, nullptr, nullptr, nullptr, iv.data()) == 1 &&
                    EVP_DecryptUpdate(cipher, nullptr, &length, raw(context), size_of(context)) == 1 &&
                    EVP_DecryptUpdate(cipher, at, &length, at, size_of(bytes)) == 1 &&
                    EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_SET_TAG, kTagBytes, at + bytes.size()) == 1;
  if (!done) return no_cipher("open");
  if (EVP_DecryptFinal_ex(cipher, at + length, &last) != 1) return damaged;
  return bytes;
}

// GMAC with a fixed nonce is GHASH under a secret with a secret added: the universal hash wanted, from a public
// interface. Repeating the nonce would give the secret away to somebody who sees tags; nobody outside does.
PageHasher::PageHasher(const Key& secret) : context_(EVP_CIPHER_CTX_new()) {
  EVP_EncryptInit_ex(context_.get(), EVP_aes_256_gcm(), nullptr, secret.data(), nullptr);
}

Fingerprint PageHasher::operator()(std::string_view page) {
  static constexpr unsigned char kNonce[kNonceBytes] = {};
  unsigned char tag[kTagBytes];
  int length = 0;
  const bool done = EVP_EncryptInit_ex(context_.get(), nullptr, nullptr, nullptr, kNonce) == 1 &&
                    EVP_EncryptUpdate(context_.get(), nullptr, &length, raw(page), size_of(page)) == 1 &&
                    EVP_EncryptFinal_ex(context_.get(), tag, &length) == 1 &&
                    EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_GCM_GET_TAG, kTagBytes, tag) == 1;
  if (!done) std::abort();  // fixed sizes, a set key: nothing that may fail; a false fingerprint would lose data
  Fingerprint fingerprint;
  std::memcpy(&fingerprint.high, tag, 8);
  std::memcpy(&fingerprint.low, tag + 8, 8);
  return fingerprint;
}

}  // namespace stillpoint::node
