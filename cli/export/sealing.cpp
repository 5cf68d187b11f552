#include "cli/export/sealing.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/sha.h>

#include <new>

namespace stillpoint::cli {
namespace {

using Bytes32 = std::array<unsigned char, 32>;

const unsigned char* raw(std::string_view bytes) { return reinterpret_cast<const unsigned char*>(bytes.data()); }
unsigned char* raw(std::string& bytes) { return reinterpret_cast<unsigned char*>(bytes.data()); }

Error broken(std::string step) { return {ErrorKind::permanent, std::move(step), "export file", "OpenSSL failed"}; }

std::array<unsigned char, 12> nonce_of(std::uint64_t number) {
  std::array<unsigned char, 12> nonce{};
  for (std::size_t i = 0; i < 8; ++i) nonce[i] = static_cast<unsigned char>(number >> 8 * i);
  return nonce;
}

// A key for one purpose, of the one that the passphrase gave.
Bytes32 derive(const Bytes32& key, std::string_view purpose) {
  Bytes32 derived{};
  unsigned length = 0;
  if (HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), raw(purpose), purpose.size(), derived.data(),
           &length) == nullptr)
    throw std::bad_alloc();  // its only reason
  return derived;
}

Result<Bytes32> scrypt(std::string_view passphrase, std::string_view salt, unsigned cost) {
  struct FreeKdf {
    void operator()(EVP_KDF* kdf) const { EVP_KDF_free(kdf); }
    void operator()(EVP_KDF_CTX* context) const { EVP_KDF_CTX_free(context); }
  };
  const std::unique_ptr<EVP_KDF, FreeKdf> kdf(EVP_KDF_fetch(nullptr, "SCRYPT", nullptr));
  const std::unique_ptr<EVP_KDF_CTX, FreeKdf> context(kdf ? EVP_KDF_CTX_new(kdf.get()) : nullptr);
  if (!context) return broken("scrypt");
  std::uint64_t n = std::uint64_t{1} << cost, memory = std::uint64_t{512} << 20;
  std::uint32_t r = 8, p = 1;
  std::string pass(passphrase), salted(salt);
  const OSSL_PARAM parameters[] = {OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_PASSWORD, pass.data(), pass.size()),
                                   OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, salted.data(), salted.size()),
                                   OSSL_PARAM_construct_uint64(OSSL_KDF_PARAM_SCRYPT_N, &n),
                                   OSSL_PARAM_construct_uint32(OSSL_KDF_PARAM_SCRYPT_R, &r),
                                   OSSL_PARAM_construct_uint32(OSSL_KDF_PARAM_SCRYPT_P, &p),
                                   OSSL_PARAM_construct_uint64(OSSL_KDF_PARAM_SCRYPT_MAXMEM, &memory),
                                   OSSL_PARAM_construct_end()};
  Bytes32 key{};
  const bool made = EVP_KDF_derive(context.get(), key.data(), key.size(), parameters) == 1;
  OPENSSL_cleanse(pass.data(), pass.size());
  if (!made) return broken("scrypt");
  return key;
}

// In place of a seal: says nothing to somebody who means harm, but finds what went wrong on the way.
std::string plain_tag(std::uint64_t number, std::string_view context, std::string_view plain) {
  RunningDigest digest;
  const auto nonce = nonce_of(number);
  digest.add({reinterpret_cast<const char*>(nonce.data()), nonce.size()});
  digest.add(context);
  digest.add(plain);
  return digest.finish().substr(0, kTagBytes);
}

}  // namespace

RunningDigest::RunningDigest() : context_(EVP_MD_CTX_new()) {
  if (!context_ || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) throw std::bad_alloc();
}
void RunningDigest::add(std::string_view bytes) { EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()); }
std::string RunningDigest::finish() {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  EVP_DigestFinal_ex(context_.get(), raw(digest), nullptr);
  return digest;
}

std::string sha256(std::string_view bytes) {
  RunningDigest digest;
  digest.add(bytes);
  return digest.finish();
}

Result<Sealing> Sealing::from_passphrase(std::string_view passphrase, std::string_view salt, unsigned cost) {
  auto master = scrypt(passphrase, salt, cost);
  if (!master) return master.error();
  Bytes32 key = derive(*master, "stillpoint export seal");
  const Bytes32 check = derive(*master, "stillpoint export check");
  OPENSSL_cleanse(master->data(), master->size());
  Sealing sealing;
  sealing.sealed_ = true;
  sealing.check_.assign(reinterpret_cast<const char*>(check.data()), 16);
  for (Cipher* cipher : {&sealing.seal_, &sealing.open_}) {
    cipher->reset(EVP_CIPHER_CTX_new());
    if (!*cipher || EVP_CipherInit_ex(cipher->get(), EVP_aes_256_gcm(), nullptr, key.data(), nullptr,
                                      cipher == &sealing.seal_ ? 1 : 0) != 1)
      return broken("seal");
  }
  OPENSSL_cleanse(key.data(), key.size());
  return sealing;
}

std::string Sealing::check() const { return check_; }

Status Sealing::seal(std::uint64_t number, std::string_view context, std::string_view plain, std::string& out) {
  if (!sealed_) {
    out.append(plain).append(plain_tag(number, context, plain));
    return {};
  }
  const auto nonce = nonce_of(number);
  std::string sealed(plain.size() + kTagBytes, '\0');
  int done = 0;
  auto* cipher = seal_.get();
  if (EVP_EncryptInit_ex(cipher, nullptr, nullptr, nullptr, nonce.data()) != 1 ||
      EVP_EncryptUpdate(cipher, nullptr, &done, raw(context), static_cast<int>(context.size())) != 1 ||
      EVP_EncryptUpdate(cipher, raw(sealed), &done, raw(plain), static_cast<int>(plain.size())) != 1 ||
      EVP_EncryptFinal_ex(cipher, raw(sealed) + plain.size(), &done) != 1 ||
      EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_GET_TAG, kTagBytes, sealed.data() + plain.size()) != 1)
    return broken("seal");
  out += sealed;
  return {};
}

Result<std::string> Sealing::open(std::uint64_t number, std::string_view context, std::string_view sealed) {
  const Error damaged{ErrorKind::damaged, "read", "record " + std::to_string(number), "it is not what was written"};
  if (sealed.size() < kTagBytes) return damaged;
  const std::string_view body = sealed.substr(0, sealed.size() - kTagBytes);
  std::string tag(sealed.substr(body.size()));
  if (!sealed_) {
    if (plain_tag(number, context, body) != tag) return damaged;
    return std::string(body);
  }
  const auto nonce = nonce_of(number);
  std::string plain(body.size(), '\0');
  int done = 0;
  auto* cipher = open_.get();
  if (EVP_DecryptInit_ex(cipher, nullptr, nullptr, nullptr, nonce.data()) != 1 ||
      EVP_DecryptUpdate(cipher, nullptr, &done, raw(context), static_cast<int>(context.size())) != 1 ||
      EVP_DecryptUpdate(cipher, raw(plain), &done, raw(body), static_cast<int>(body.size())) != 1 ||
      EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_SET_TAG, kTagBytes, tag.data()) != 1)
    return broken("open");
  if (EVP_DecryptFinal_ex(cipher, raw(plain) + plain.size(), &done) != 1) return damaged;
  return plain;
}

}  // namespace stillpoint::cli
