// Puts a large file as a multipart upload: nothing is visible by the name before the last step, and an upload that
// fails is ended so that its parts take no room. One owner, one call.
#pragma once

#include <stop_token>
#include <string>
#include <vector>

#include "node-daemon/store/remote/s3_client.h"

namespace stillpoint::node {

class S3Upload {
 public:
  S3Upload(S3Client& client, std::string key, const ReadableFile& content, std::stop_token stop);
  // Also after stop was requested the upload is ended on the server, if that answers within seconds.
  Status run();

 private:
  Status create();
  Status send_parts();
  Status complete();
  Result<bool> is_there();
  void abort();
  S3Request request(HttpMethod method) const;
  std::uint64_t part_bytes() const;

  S3Client& client_;
  const std::string key_;
  const ReadableFile& content_;
  const std::stop_token stop_;
  std::string mark_;  // random; the object carries it, and so tells that it is of this upload
  std::string upload_;
  std::vector<std::string> etags_;
};

// Ends all uploads of keys that begin so. Returns how many there were.
Result<std::size_t> end_uploads(S3Client& client, const std::string& prefix);

}  // namespace stillpoint::node
