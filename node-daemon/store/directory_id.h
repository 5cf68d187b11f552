// The id of a directory of images, by which the catalog knows whether two hosts have the same one: in a directory that
// hosts share, images have their place by it. A line of 32 hexadecimal digits, then "sha256 " and the digest of that
// line; versions before had the first line alone.
//
// Blocking; any thread, and hosts that share the directory side by side.
#pragma once

#include <filesystem>
#include <string>

#include "common/result.h"

namespace stillpoint::node {

// Made by whoever comes first. One that is damaged, or is gone though hosts have stores there, is an error of kind
// damaged where is_shared: with another id nobody would look for the images there. Elsewhere it is made anew.
Result<std::string> directory_id(const std::filesystem::path& directory, bool is_shared);

}  // namespace stillpoint::node
