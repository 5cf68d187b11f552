#include "cli/lab/certificates.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <memory>

#include "cli/lab/layout.h"
#include "common/file.h"

namespace stillpoint::lab {
namespace fs = std::filesystem;
namespace {

template <auto F>
struct Free {
  template <class T>
  void operator()(T* object) const {
    F(object);
  }
};
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using Bio = std::unique_ptr<BIO, Free<BIO_free_all>>;
using Extension = std::unique_ptr<X509_EXTENSION, Free<X509_EXTENSION_free>>;

constexpr long kHour = 3600, kYear = 365 * 24 * kHour;

Error ssl_error(const std::string& step, const std::string& object) {
  char text[256] = "OpenSSL gives no reason";
  if (const auto code = ERR_get_error(); code != 0) ERR_error_string_n(code, text, sizeof text);
  return {ErrorKind::permanent, step, object, text};
}

// Subject and issuer name, serial number, validity, key: what authority and daemons' certificates share.
bool fill(X509* certificate, EVP_PKEY* key, const std::string& name, const X509_NAME* issuer) {
  unsigned char serial[16];
  if (RAND_bytes(serial, sizeof serial) != 1) return false;
  serial[0] &= 0x7f;
  std::unique_ptr<BIGNUM, Free<BN_free>> number(BN_bin2bn(serial, sizeof serial, nullptr));
  X509_NAME* subject = X509_get_subject_name(certificate);
  const auto* text = reinterpret_cast<const unsigned char*>(name.c_str());
  return number && BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) != nullptr &&
         X509_set_version(certificate, X509_VERSION_3) == 1 &&
         X509_gmtime_adj(X509_getm_notBefore(certificate), -kHour) != nullptr &&
         X509_gmtime_adj(X509_getm_notAfter(certificate), 10 * kYear) != nullptr &&
         X509_set_pubkey(certificate, key) == 1 &&
         X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, text, -1, -1, 0) == 1 &&
         X509_set_issuer_name(certificate, issuer != nullptr ? issuer : subject) == 1;
}

bool extend(X509* certificate, X509* issuer, int what, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  Extension extension(X509V3_EXT_conf_nid(nullptr, &context, what, value.c_str()));
  return extension && X509_add_ext(certificate, extension.get(), -1) == 1;
}

Result<std::string> key_pem(EVP_PKEY* key) {
  Bio bio(BIO_new(BIO_s_mem()));
  if (!bio || PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1)
    return ssl_error("encode", "key");
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return std::string(data, static_cast<std::size_t>(size));
}

Result<std::string> certificate_pem(X509* certificate) {
  Bio bio(BIO_new(BIO_s_mem()));
  if (!bio || PEM_write_bio_X509(bio.get(), certificate) != 1) return ssl_error("encode", "certificate");
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return std::string(data, static_cast<std::size_t>(size));
}

Status write_pair(const fs::path& certificate_path, X509* certificate, const fs::path& key_path, EVP_PKEY* key) {
  auto secret = key_pem(key);
  if (!secret) return secret.error();
  auto open = certificate_pem(certificate);
  if (!open) return open.error();
  if (auto written = publish_file(key_path, *secret, 0600); !written) return written;
  return publish_file(certificate_path, *open, 0644);
}

}  // namespace

Status make_authority(const fs::path& directory, const std::string& site) {
  if (auto made = make_directory(directory); !made) return made;
  Key key(EVP_EC_gen("P-256"));
  Certificate certificate(X509_new());
  if (!key || !certificate || !fill(certificate.get(), key.get(), site, nullptr) ||
      !extend(certificate.get(), certificate.get(), NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
      !extend(certificate.get(), certificate.get(), NID_key_usage, "critical,keyCertSign,cRLSign") ||
      !extend(certificate.get(), certificate.get(), NID_subject_key_identifier, "hash") ||
      X509_sign(certificate.get(), key.get(), EVP_sha256()) == 0)
    return ssl_error("make authority", site);
  return write_pair(directory / "ca.pem", certificate.get(), directory / "ca-key.pem", key.get());
}

Status issue_certificate(const fs::path& authority, const std::string& name, const fs::path& directory) {
  auto ca_text = read_file(authority / "ca.pem", 1 << 20);
  if (!ca_text) return ca_text.error();
  auto ca_secret = read_file(authority / "ca-key.pem", 1 << 20);
  if (!ca_secret) return ca_secret.error();
  Bio ca_bio(BIO_new_mem_buf(ca_text->data(), static_cast<int>(ca_text->size())));
  Bio secret_bio(BIO_new_mem_buf(ca_secret->data(), static_cast<int>(ca_secret->size())));
  Certificate ca(PEM_read_bio_X509(ca_bio.get(), nullptr, nullptr, nullptr));
  Key ca_key(PEM_read_bio_PrivateKey(secret_bio.get(), nullptr, nullptr, nullptr));
  if (!ca || !ca_key) return ssl_error("read authority", authority.string());

  if (auto made = make_directory(directory); !made) return made;
  Key key(EVP_EC_gen("P-256"));
  Certificate certificate(X509_new());
  if (!key || !certificate || !fill(certificate.get(), key.get(), name, X509_get_subject_name(ca.get())) ||
      !extend(certificate.get(), ca.get(), NID_basic_constraints, "critical,CA:FALSE") ||
      !extend(certificate.get(), ca.get(), NID_key_usage, "critical,digitalSignature") ||
      !extend(certificate.get(), ca.get(), NID_ext_key_usage, "serverAuth,clientAuth") ||
      !extend(certificate.get(), ca.get(), NID_subject_alt_name, "DNS:" + name) ||
      !extend(certificate.get(), ca.get(), NID_subject_key_identifier, "hash") ||
      !extend(certificate.get(), ca.get(), NID_authority_key_identifier, "keyid") ||
      X509_sign(certificate.get(), ca_key.get(), EVP_sha256()) == 0)
    return ssl_error("issue certificate", name);
  if (auto copied = publish_file(directory / "ca.pem", *ca_text, 0644); !copied) return copied;
  return write_pair(directory / "cert.pem", certificate.get(), directory / "key.pem", key.get());
}

}  // namespace stillpoint::lab
