// A throw-away site for tests: a CA and certificates of it, in a temporary directory that goes with the object.
// Tests only. Not shared between threads.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

namespace stillpoint::net {

class TestSite {
 public:
  TestSite();
  ~TestSite();
  TestSite(const TestSite&) = delete;
  TestSite& operator=(const TestSite&) = delete;

  // A directory with ca.pem, cert.pem (this common name, signed by this site) and key.pem; another one at each call.
  std::filesystem::path identity(const std::string& common_name, long valid_seconds = 3600);
  const std::filesystem::path& directory() const { return directory_; }

 private:
  struct Authority;
  std::filesystem::path directory_;
  std::unique_ptr<Authority> authority_;
  int made_ = 0;
};

}  // namespace stillpoint::net
