#include "node-daemon/shell/base_image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "common/fd.h"
#include "common/file.h"
#include "node-daemon/store/digest.h"
#include "node-daemon/store/seal.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPiece = 1u << 20;
constexpr std::size_t kDigestBytes = 32;
constexpr std::size_t kShownDigits = 16;

fs::path record_of(const fs::path& guest) { return guest / "base.sha256"; }

// Changes with every write and with every other file in its place.
std::string state_of(const struct stat& file) {
  const auto time = [](const timespec& t) { return std::to_string(t.tv_sec) + "." + std::to_string(t.tv_nsec); };
  return std::to_string(file.st_dev) + " " + std::to_string(file.st_ino) + " " + std::to_string(file.st_size) + " " +
         time(file.st_mtim) + " " + time(file.st_ctim);
}

Result<std::string> read_digest(int fd, const fs::path& image) {
  Sha256 digest;
  std::string piece(kPiece, '\0');
  for (;;) {
    const ssize_t count = ::read(fd, piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno_error("read base image", image.string(), errno);
    if (count == 0) return digest.finish();
    digest.add(std::string_view(piece).substr(0, static_cast<std::size_t>(count)));
  }
}

}  // namespace

Result<std::string> BaseImages::digest(const fs::path& image) {
  const std::lock_guard lock(mutex_);  // guests that start together want the same file
  const Fd file(::open(image.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (!file || ::fstat(file.get(), &status) != 0) return errno_error("read base image", image.string(), errno);
  const std::string state = state_of(status);
  if (const auto known = known_.find(image); known != known_.end() && known->second.first == state)
    return known->second.second;
  auto digest = read_digest(file.get(), image);
  if (digest) known_[image] = {state, *digest};
  return digest;
}

Status check_base_image(const fs::path& image, const std::string& digest, const std::string& recorded) {
  if (recorded.empty() || digest == recorded) return {};
  return Error{ErrorKind::refused, "restore over base image", image.string(),
               "it is not the one that the checkpoint was taken over: its SHA-256 begins with " +
                   hex(digest).substr(0, kShownDigits) + ", that one's with " + hex(recorded).substr(0, kShownDigits) +
                   "; put that one in its place on this host, or restart on hosts that have it"};
}

Status record_base_image(const fs::path& guest, const std::string& digest) {
  return publish_file(record_of(guest), digest);
}

Result<std::string> recorded_base_image(const fs::path& guest) {
  auto digest = read_file(record_of(guest), kDigestBytes);
  if (!digest && digest.error().kind == ErrorKind::not_found) return std::string();
  return digest;
}

}  // namespace stillpoint::node
