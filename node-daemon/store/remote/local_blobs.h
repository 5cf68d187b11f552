// Blobs as files below a directory of this machine: what a host keeps for its partners. Files and directories are made
// as files.h says; what is being written is in DIR/.incoming, where no name of a blob leads.
//
// One process at a time per directory. Threads: any number of calls side by side.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "node-daemon/store/remote/blob_store.h"

namespace stillpoint::node {

class LocalBlobs final : public BlobStore {
 public:
  // Makes the directory if it is not there (the one above it must be) and removes what an earlier process left half
  // written. where: for people, in errors.
  static Result<std::unique_ptr<LocalBlobs>> make(Files& files, std::filesystem::path directory, std::string where);

  const std::string& where() const override { return where_; }
  // Durable when it returns.
  Status put(const std::string& name, const ReadableFile& content, std::stop_token stop) override;
  Result<std::shared_ptr<const ReadableFile>> open(const std::string& name) override;
  Result<std::vector<std::string>> list(const std::string& directory) override;
  // Directories that become empty go, too. A crash may bring back what was removed just before it.
  Status remove(const std::string& name) override;

 private:
  LocalBlobs(Files& files, std::filesystem::path directory, std::string where)
      : files_(files), directory_(std::move(directory)), where_(std::move(where)) {}
  Status write(const std::filesystem::path& path, const ReadableFile& content, const std::stop_token& stop);
  Status publish(const std::filesystem::path& temporary, const std::filesystem::path& name);
  Status make_directories(const std::filesystem::path& name);

  Files& files_;
  const std::filesystem::path directory_;
  const std::string where_;
};

}  // namespace stillpoint::node
