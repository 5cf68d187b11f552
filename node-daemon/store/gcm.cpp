#include "node-daemon/store/gcm.h"

#include <openssl/evp.h>

namespace stillpoint::node {
namespace {

const unsigned char* raw(std::string_view bytes) { return reinterpret_cast<const unsigned char*>(bytes.data()); }
int size_of(std::string_view bytes) { return static_cast<int>(bytes.size()); }

class OpenSsl final : public Gcm {
 public:
  explicit OpenSsl(const GcmKey& key) {
    EVP_EncryptInit_ex(seal_.get(), EVP_aes_256_gcm(), nullptr, key.data(), nullptr);
    EVP_DecryptInit_ex(open_.get(), EVP_aes_256_gcm(), nullptr, key.data(), nullptr);
  }
  bool seal(const GcmNonce& nonce, std::string_view context, std::string_view plain, char* to, GcmTag& tag) override {
    EVP_CIPHER_CTX* const cipher = seal_.get();
    auto* const at = reinterpret_cast<unsigned char*>(to);
    int length = 0, last = 0;
    return EVP_EncryptInit_ex(cipher, nullptr, nullptr, nullptr, nonce.data()) == 1 &&
           EVP_EncryptUpdate(cipher, nullptr, &length, raw(context), size_of(context)) == 1 &&
           (plain.empty() || EVP_EncryptUpdate(cipher, at, &length, raw(plain), size_of(plain)) == 1) &&
           EVP_EncryptFinal_ex(cipher, tag.data(), &last) == 1 &&  // writes nothing: GCM has no last block
           EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_GET_TAG, static_cast<int>(tag.size()), tag.data()) == 1;
  }
  Opened open(const GcmNonce& nonce, std::string_view context, std::string_view sealed, const GcmTag& tag,
              char* to) override {
    EVP_CIPHER_CTX* const cipher = open_.get();
    auto* const at = reinterpret_cast<unsigned char*>(to);
    GcmTag expected = tag, nothing{};
    int length = 0, last = 0;
    const bool done =
        EVP_DecryptInit_ex(cipher, nullptr, nullptr, nullptr, nonce.data()) == 1 &&
        EVP_DecryptUpdate(cipher, nullptr, &length, raw(context), size_of(context)) == 1 &&
        (sealed.empty() || EVP_DecryptUpdate(cipher, at, &length, raw(sealed), size_of(sealed)) == 1) &&
        EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_SET_TAG, static_cast<int>(expected.size()), expected.data()) == 1;
    if (!done) return Opened::refused;
    return EVP_DecryptFinal_ex(cipher, nothing.data(), &last) == 1 ? Opened::whole : Opened::damaged;
  }

 private:
  struct Free {
    void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
  };
  std::unique_ptr<EVP_CIPHER_CTX, Free> seal_{EVP_CIPHER_CTX_new()}, open_{EVP_CIPHER_CTX_new()};
};

}  // namespace

std::unique_ptr<Gcm> openssl_gcm(const GcmKey& key) { return std::make_unique<OpenSsl>(key); }

std::unique_ptr<Gcm> make_gcm(const GcmKey& key) {
  auto faster = ipsec_mb_gcm(key);
  return faster ? std::move(faster) : openssl_gcm(key);
}

}  // namespace stillpoint::node
