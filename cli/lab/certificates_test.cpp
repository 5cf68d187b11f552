#include "cli/lab/certificates.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/process.h"

using namespace stillpoint;
using namespace stillpoint::lab;
namespace fs = std::filesystem;

namespace {

struct Site {
  Site() {
    char name[] = "/tmp/stillpoint-site-XXXXXX";
    path = ::mkdtemp(name);
    REQUIRE(make_authority(path / "site", "a site").has_value());
  }
  ~Site() { fs::remove_all(path); }
  fs::path path;
};

unsigned mode(const fs::path& path) {
  struct stat found {};
  ::stat(path.c_str(), &found);
  return found.st_mode & 0777;
}

int verify(const fs::path& authority, const fs::path& certificate, const std::string& purpose) {
  auto outcome = run_process(
      {"openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", authority.string(), certificate.string()});
  REQUIRE(outcome.has_value());
  INFO(outcome->err);
  return outcome->exit_code;
}

}  // namespace

TEST_CASE("a host's certificate is good for both ends of a session, under its own authority only") {
  Site site, other;
  REQUIRE(issue_certificate(site.path / "site", "h1", site.path / "tls").has_value());
  const auto certificate = site.path / "tls" / "cert.pem";
  CHECK(verify(site.path / "tls" / "ca.pem", certificate, "sslserver") == 0);
  CHECK(verify(site.path / "tls" / "ca.pem", certificate, "sslclient") == 0);
  CHECK(verify(other.path / "site" / "ca.pem", certificate, "sslclient") != 0);
}

TEST_CASE("a certificate carries its host's name, and its key") {
  Site site;
  REQUIRE(issue_certificate(site.path / "site", "h7", site.path / "tls").has_value());
  const auto shown =
      run_checked({"openssl", "x509", "-noout", "-subject", "-pubkey", "-in", (site.path / "tls/cert.pem").string()});
  REQUIRE(shown.has_value());
  // "CN = h7" from OpenSSL 3.0, "CN=h7" from 3.5.
  CHECK((shown->find("CN = h7") != std::string::npos || shown->find("CN=h7") != std::string::npos));
  const auto key = run_checked({"openssl", "pkey", "-pubout", "-in", (site.path / "tls/key.pem").string()});
  REQUIRE(key.has_value());
  CHECK(shown->find(*key) != std::string::npos);
}

TEST_CASE("keys are for their owner alone") {
  Site site;
  REQUIRE(issue_certificate(site.path / "site", "h1", site.path / "tls").has_value());
  CHECK(mode(site.path / "site" / "ca-key.pem") == 0600);
  CHECK(mode(site.path / "tls" / "key.pem") == 0600);
  CHECK(mode(site.path / "site") == 0700);
}

TEST_CASE("no authority, no certificate") {
  Site site;
  const auto issued = issue_certificate(site.path / "nowhere", "h1", site.path / "tls");
  REQUIRE_FALSE(issued.has_value());
  CHECK(issued.error().message().find("ca.pem") != std::string::npos);
}
