#include "node-daemon/store/remote/s3_credentials.h"

#include <sys/stat.h>

#include <cerrno>
#include <sstream>

#include "common/file.h"

namespace stillpoint::node {
namespace {

constexpr const char* kStep = "read credentials of the object store";

Error bad(std::string cause) { return {ErrorKind::refused, kStep, "", std::move(cause)}; }

std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

Status take_line(const std::string& line, unsigned number, S3Credentials& credentials) {
  const auto equals = line.find('=');
  const std::string key = trimmed(line.substr(0, equals));
  const std::string at = "line " + std::to_string(number);
  std::string* const value = key == "aws_access_key_id"       ? &credentials.access_key
                             : key == "aws_secret_access_key" ? &credentials.secret_key
                                                              : nullptr;
  if (equals == line.npos || value == nullptr)
    return bad(at + " is neither aws_access_key_id = … nor aws_secret_access_key = …");
  if (!value->empty()) return bad(at + " says again what an earlier line says");
  *value = trimmed(line.substr(equals + 1));
  if (value->empty()) return bad(at + " has nothing after \"=\"");
  return {};
}

}  // namespace

Result<S3Credentials> parse_s3_credentials(std::string_view text) {
  S3Credentials credentials;
  std::istringstream in{std::string(text)};
  std::string line;
  for (unsigned number = 1; std::getline(in, line); ++number) {
    line = trimmed(line);
    if (line.empty() || line.front() == '#') continue;
    if (line.front() == '[') {
      const bool first = credentials.access_key.empty() && credentials.secret_key.empty();
      if (line == "[default]" && first) continue;
      return bad("line " + std::to_string(number) + ": only one section, [default], is understood");
    }
    if (auto taken = take_line(line, number, credentials); !taken) return taken.error();
  }
  if (credentials.access_key.empty()) return bad("it has no aws_access_key_id");
  if (credentials.secret_key.empty()) return bad("it has no aws_secret_access_key");
  return credentials;
}

Result<S3Credentials> load_s3_credentials(const std::filesystem::path& path) {
  struct stat state {};
  if (::stat(path.c_str(), &state) != 0) return errno_error(kStep, path.string(), errno);
  if ((state.st_mode & 077) != 0)
    return Error{ErrorKind::refused, kStep, path.string(), "others than its owner may use it: make its mode 0600"};
  auto text = read_file(path, 64u << 10);
  if (!text) return text.error();
  auto credentials = parse_s3_credentials(*text);
  if (!credentials) return Error{ErrorKind::refused, kStep, path.string(), credentials.error().cause};
  return credentials;
}

}  // namespace stillpoint::node
