// What an S3 server says in XML. Pure functions; any thread. What cannot be read is an error of kind damaged.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/result.h"

namespace stillpoint::node {

struct S3Failure {
  std::string code, message;     // "NoSuchBucket", words for people
  std::string region, endpoint;  // where the bucket is, if the server says so
};
// Nothing: it is no <Error>.
std::optional<S3Failure> parse_s3_failure(std::string_view xml);

struct S3Listing {
  std::vector<std::string> keys;      // of objects
  std::vector<std::string> prefixes;  // common ones, with the delimiter at their end
  std::string next;                   // continuation token; empty: that was all
};
Result<S3Listing> parse_s3_listing(std::string_view xml);

struct S3Uploads {
  std::vector<std::pair<std::string, std::string>> uploads;  // key and upload id
  std::string next_key, next_upload;                         // markers; next_key empty: that was all
};
Result<S3Uploads> parse_s3_uploads(std::string_view xml);

// Of InitiateMultipartUpload.
Result<std::string> parse_s3_upload_id(std::string_view xml);

// The request body that completes an upload of parts 1, 2, … with these ETags.
std::string s3_completion(const std::vector<std::string>& etags);

}  // namespace stillpoint::node
