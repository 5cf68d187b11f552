#include "common/net/test_certificates.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdlib.h>

#include <stdexcept>

#include "common/file.h"

namespace stillpoint::net {
namespace {

struct Freer {
  void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
  void operator()(X509* p) const { X509_free(p); }
  void operator()(BIO* p) const { BIO_free_all(p); }
  void operator()(X509_EXTENSION* p) const { X509_EXTENSION_free(p); }
};
template <class T>
using Owned = std::unique_ptr<T, Freer>;

void must(bool done, const char* what) {
  if (!done) throw std::runtime_error(std::string("test certificate: ") + what);
}

Owned<EVP_PKEY> make_key() {
  Owned<EVP_PKEY> key(EVP_EC_gen("P-256"));
  must(key != nullptr, "key");
  return key;
}

Owned<X509> make_certificate(const std::string& name, EVP_PKEY* key, const X509* issuer, EVP_PKEY* issuer_key,
                             long serial, long valid_seconds) {
  Owned<X509> certificate(X509_new());
  X509* c = certificate.get();
  must(X509_set_version(c, 2) == 1, "version");
  ASN1_INTEGER_set(X509_get_serialNumber(c), serial);
  X509_gmtime_adj(X509_getm_notBefore(c), -3600);
  X509_gmtime_adj(X509_getm_notAfter(c), valid_seconds);
  X509_NAME* subject = X509_get_subject_name(c);
  must(X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(name.data()),
                                  static_cast<int>(name.size()), -1, 0) == 1,
       "name");
  X509_set_issuer_name(c, issuer != nullptr ? X509_get_subject_name(issuer) : subject);
  X509_set_pubkey(c, key);
  const char* constraints = issuer != nullptr ? "critical,CA:FALSE" : "critical,CA:TRUE";
  Owned<X509_EXTENSION> extension(X509V3_EXT_conf_nid(nullptr, nullptr, NID_basic_constraints, constraints));
  must(X509_add_ext(c, extension.get(), -1) == 1, "extension");
  must(X509_sign(c, issuer_key, EVP_sha256()) > 0, "signature");
  return certificate;
}

std::string contents(BIO* memory) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(memory, &data);
  return {data, static_cast<std::size_t>(size)};
}

std::string pem(X509* certificate) {
  Owned<BIO> memory(BIO_new(BIO_s_mem()));
  must(PEM_write_bio_X509(memory.get(), certificate) == 1, "PEM");
  return contents(memory.get());
}

std::string pem(EVP_PKEY* key) {
  Owned<BIO> memory(BIO_new(BIO_s_mem()));
  must(PEM_write_bio_PrivateKey(memory.get(), key, nullptr, nullptr, 0, nullptr, nullptr) == 1, "PEM");
  return contents(memory.get());
}

}  // namespace

struct TestSite::Authority {
  Owned<EVP_PKEY> key;
  Owned<X509> certificate;
};

TestSite::TestSite() : authority_(std::make_unique<Authority>()) {
  std::string path = (std::filesystem::temp_directory_path() / "stillpoint-tls-XXXXXX").string();
  must(::mkdtemp(path.data()) != nullptr, "directory");
  directory_ = path;
  authority_->key = make_key();
  authority_->certificate =
      make_certificate("test site", authority_->key.get(), nullptr, authority_->key.get(), 1, 86400);
}

TestSite::~TestSite() {
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

std::filesystem::path TestSite::identity(const std::string& common_name, long valid_seconds) {
  const auto directory = directory_ / ("identity-" + std::to_string(++made_));
  std::filesystem::create_directory(directory);
  auto key = make_key();
  auto certificate = make_certificate(common_name, key.get(), authority_->certificate.get(), authority_->key.get(),
                                      made_ + 1, valid_seconds);
  must(publish_file(directory / "ca.pem", pem(authority_->certificate.get()), 0644).has_value(), "ca.pem");
  must(publish_file(directory / "cert.pem", pem(certificate.get()), 0644).has_value(), "cert.pem");
  must(publish_file(directory / "key.pem", pem(key.get()), 0600).has_value(), "key.pem");
  return directory;
}

}  // namespace stillpoint::net
