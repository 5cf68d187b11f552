// Bytes in memory as a file. Any thread; never changes.
#pragma once

#include <string>

#include "node-daemon/store/files.h"

namespace stillpoint::node {

class MemoryBlob final : public ReadableFile {
 public:
  explicit MemoryBlob(std::string bytes) : bytes_(std::move(bytes)) {}
  Result<std::string> read(std::uint64_t offset, std::size_t count) const override {
    if (offset > bytes_.size() || count > bytes_.size() - offset)
      return Error{ErrorKind::damaged, "read", "bytes in memory", "they end too early"};
    return bytes_.substr(offset, count);
  }
  std::uint64_t size() const override { return bytes_.size(); }
  const std::string& bytes() const { return bytes_; }

 private:
  const std::string bytes_;
};

}  // namespace stillpoint::node
