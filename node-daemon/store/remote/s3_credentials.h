// The file with the site's credentials for its object store, in the form of AWS's own tools:
//
//   [default]
//   aws_access_key_id = NAME
//   aws_secret_access_key = SECRET
//
// The first line may be missing; empty lines and those that begin with '#' do not count. Any thread.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "common/result.h"

namespace stillpoint::node {

struct S3Credentials {
  std::string access_key, secret_key;
};

// Refused: a file that group or others may use, or that is not of this form. Errors quote nothing of it.
Result<S3Credentials> load_s3_credentials(const std::filesystem::path& path);
Result<S3Credentials> parse_s3_credentials(std::string_view text);

}  // namespace stillpoint::node
