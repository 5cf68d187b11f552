#ifdef STILLPOINT_HAS_IPSEC_MB
#include <intel-ipsec-mb.h>
#include <openssl/crypto.h>
#endif

#include <cstdint>

#include "node-daemon/store/gcm.h"

namespace stillpoint::node {

#ifdef STILLPOINT_HAS_IPSEC_MB
namespace {

// Which functions this processor can run; null: none. Only read after it was made, so one serves all threads.
IMB_MGR* functions() {
  static IMB_MGR* const manager = [] {
    IMB_MGR* const made = alloc_mb_mgr(0);
    if (made == nullptr) return made;
    init_mb_mgr_auto(made, nullptr);
    constexpr std::uint64_t kNeeded = IMB_FEATURE_AESNI | IMB_FEATURE_PCLMULQDQ;
    return imb_get_errno(made) == 0 && (made->features & kNeeded) == kNeeded ? made : nullptr;
  }();
  return manager;
}

const unsigned char* raw(std::string_view bytes) { return reinterpret_cast<const unsigned char*>(bytes.data()); }

class IpsecMb final : public Gcm {
 public:
  explicit IpsecMb(const GcmKey& key) { IMB_AES256_GCM_PRE(functions(), key.data(), &key_); }
  ~IpsecMb() override {
    OPENSSL_cleanse(&key_, sizeof key_);
    OPENSSL_cleanse(&context_, sizeof context_);
  }
  IpsecMb(const IpsecMb&) = delete;
  IpsecMb& operator=(const IpsecMb&) = delete;

  bool seal(const GcmNonce& nonce, std::string_view context, std::string_view plain, char* to, GcmTag& tag) override {
    // It refuses null, also where there is nothing.
    auto* const at = plain.empty() ? tag.data() : reinterpret_cast<unsigned char*>(to);
    const unsigned char* const from = plain.empty() ? tag.data() : raw(plain);
    IMB_AES256_GCM_ENC(functions(), &key_, &context_, at, from, plain.size(), nonce.data(), raw(context),
                       context.size(), tag.data(), tag.size());
    return true;
  }
  Opened open(const GcmNonce& nonce, std::string_view context, std::string_view sealed, const GcmTag& tag,
              char* to) override {
    GcmTag found{};
    auto* const at = sealed.empty() ? found.data() : reinterpret_cast<unsigned char*>(to);
    const unsigned char* const from = sealed.empty() ? found.data() : raw(sealed);
    IMB_AES256_GCM_DEC(functions(), &key_, &context_, at, from, sealed.size(), nonce.data(), raw(context),
                       context.size(), found.data(), found.size());
    return CRYPTO_memcmp(found.data(), tag.data(), tag.size()) == 0 ? Opened::whole : Opened::damaged;
  }

 private:
  // As the library's own users have them: it moves whole registers, and its types do not say so.
  alignas(64) gcm_key_data key_;
  alignas(64) gcm_context_data context_;
};

}  // namespace

std::unique_ptr<Gcm> ipsec_mb_gcm(const GcmKey& key) {
  return functions() == nullptr ? nullptr : std::make_unique<IpsecMb>(key);
}
#else
std::unique_ptr<Gcm> ipsec_mb_gcm(const GcmKey&) { return nullptr; }
#endif

}  // namespace stillpoint::node
