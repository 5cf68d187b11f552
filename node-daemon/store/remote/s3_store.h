// Blobs as objects of a bucket of an S3 server: PREFIX/NAME. docs/store-format.md has the layout, docs/operations.md
// what must be set up. Requests are tried again as s3_client.h says; what is put is checked by its SHA-256 there.
#pragma once

#include <memory>
#include <string>

#include "node-daemon/store/remote/blob_store.h"
#include "node-daemon/store/remote/s3_client.h"

namespace stillpoint::node {

class S3Store final : public BlobStore {
 public:
  // refused: settings or credentials that cannot be. Asks the server nothing: see check().
  static Result<std::unique_ptr<S3Store>> make(const S3Settings& settings);

  const std::string& where() const override { return client_->where(); }
  Status put(const std::string& name, const ReadableFile& content, std::stop_token stop) override;
  Result<std::shared_ptr<const ReadableFile>> open(const std::string& name) override;
  Result<std::vector<std::string>> list(const std::string& directory) override;
  Status remove(const std::string& name) override;

  // Whether the bucket can be used: puts, reads, lists and deletes a small object. For a daemon's start.
  Status check();
  // Ends uploads below a directory that a daemon which died has left: they take room and show nowhere. Not while
  // anybody puts something there. Returns how many.
  Result<std::size_t> end_unfinished(const std::string& directory);

 private:
  explicit S3Store(std::shared_ptr<S3Client> client) : client_(std::move(client)) {}
  Status put_whole(const std::string& key, const ReadableFile& content, std::stop_token stop);
  std::string key_prefix(const std::string& directory) const;

  const std::shared_ptr<S3Client> client_;  // shared with opened files, which may outlive the store
};

}  // namespace stillpoint::node
