// A file that appears whole under its name or not at all, however its writer ends short of a SIGKILL: written under a
// temporary name beside it, 0600. And the passphrase that protects one. One thread.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "common/fd.h"
#include "common/result.h"

namespace stillpoint::cli {

class NewFile {
 public:
  // "-": standard output. refused when there is something of that name already.
  static Result<NewFile> create(const std::string& name);
  NewFile(NewFile&& other) noexcept
      : path_(std::move(other.path_)), temporary_(std::exchange(other.temporary_, {})), fd_(std::move(other.fd_)) {}
  NewFile& operator=(NewFile&&) = delete;
  ~NewFile();

  Status write(std::string_view bytes);
  // Durable and under its name when it returns; once, last.
  Status publish();

 private:
  NewFile() = default;
  std::filesystem::path path_, temporary_;  // empty: standard output
  Fd fd_;
};

// What the file holds but for a newline at its end. refused when others may read it, or when it is empty.
Result<std::string> read_passphrase(const std::string& path);

}  // namespace stillpoint::cli
