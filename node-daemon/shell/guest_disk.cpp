#include "node-daemon/shell/guest_disk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>

#include "common/fd.h"
#include "common/process.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::minutes kToolDeadline{10};
constexpr std::size_t kBlock = 1u << 20;

Status run_tool(const std::vector<std::string>& argv, const fs::path& object, const std::stop_token& stop = {},
                UploadCaps* caps = nullptr) {
  std::chrono::nanoseconds cpu{};
  auto done = run_checked(argv, {.deadline = kToolDeadline, .input = {}, .stop = stop, .cpu = &cpu});
  if (caps != nullptr) caps->charge(cpu, stop);
  if (done) return {};
  Error error = done.error();
  if (error.cause.find("No space left on device") != std::string::npos)
    error = {ErrorKind::storage_full, argv[0], object.string(), "no space left on device"};
  return error;
}

Status make_empty(const fs::path& directory) {
  std::error_code failed;
  fs::remove_all(directory, failed);
  if (failed) return errno_error("remove", directory.string(), failed.value());
  if (::mkdir(directory.c_str(), 0700) != 0) return errno_error("make directory", directory.string(), errno);
  return {};
}

Result<fs::path> make_overlay(const fs::path& base, const std::string& format) {
  const fs::path layer = base.parent_path() / "layer-0.qcow2";
  if (auto made = run_tool(
          {"qemu-img", "create", "-q", "-f", "qcow2", "-b", base.string(), "-F", format, layer.string()}, layer);
      !made)
    return made.error();
  return layer;
}

// Removes the file when it goes out of scope.
struct Temporary {
  fs::path path;
  explicit Temporary(fs::path p) : path(std::move(p)) {}
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  ~Temporary() { ::unlink(path.c_str()); }
};

}  // namespace

Result<fs::path> make_fresh_disk(const fs::path& directory, std::uint64_t bytes) {
  if (auto empty = make_empty(directory); !empty) return empty.error();
  const fs::path base = directory / "base.raw";
  Fd fd(::open(base.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) return errno_error("create", base.string(), errno);
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) return errno_error("make disk", base.string(), errno);
  fd.reset();
  // Nothing is written that is not needed: the file stays sparse, and so do the images made of it.
  if (auto made = run_tool(
          {"mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", base.string()},
          base);
      !made)
    return made.error();
  return make_overlay(base, "raw");
}

Result<fs::path> make_restored_disk(const fs::path& directory, ImageReader& image) {
  if (auto empty = make_empty(directory); !empty) return empty.error();
  const fs::path base = directory / "base.qcow2";
  Fd fd(::open(base.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) return errno_error("create", base.string(), errno);
  for (;;) {
    auto block = image.read();
    if (!block) return block.error();
    if (block->empty()) break;
    std::string_view rest = *block;
    while (!rest.empty()) {
      const ssize_t n = ::write(fd.get(), rest.data(), rest.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return errno_error("write", base.string(), errno);
      rest.remove_prefix(static_cast<std::size_t>(n));
    }
  }
  return make_overlay(base, "qcow2");
}

DiskRoom::Claim::~Claim() {
  if (room_ == nullptr) return;
  const std::lock_guard lock(room_->mutex_);
  room_->claimed_ -= bytes_;
}

Result<DiskRoom::Claim> DiskRoom::claim(const fs::path& directory, std::uint64_t bytes) {
  struct statvfs figures {};
  if (::statvfs(directory.c_str(), &figures) != 0) return errno_error("ask for free space", directory.string(), errno);
  const std::uint64_t free = static_cast<std::uint64_t>(figures.f_bavail) * figures.f_frsize;
  const std::lock_guard lock(mutex_);
  if (free < claimed_ + bytes + kReserve)
    return Error{ErrorKind::storage_full, "store disk", directory.string(),
                 "its copy may take " + std::to_string(bytes >> 20) + " MiB, and " + std::to_string(kReserve >> 20) +
                     " MiB are kept free for the machines; there are " + std::to_string(free >> 20) + " MiB" +
                     (claimed_ == 0 ? "" : ", of which others take " + std::to_string(claimed_ >> 20))};
  claimed_ += bytes;
  return Claim(*this, bytes);
}

Result<wire::ImageFile> store_disk(const std::vector<fs::path>& chain, DiskRoom& room, ImageWriter& writer,
                                   UploadCaps* caps, const std::stop_token& stop) {
  const UploadCaps::Work work(caps);
  const fs::path& frozen = chain.front();
  std::uint64_t allocated = 0;
  for (const fs::path& layer : chain) {
    struct stat info {};
    if (::stat(layer.c_str(), &info) != 0) return errno_error("look at disk layer", layer.string(), errno);
    allocated += static_cast<std::uint64_t>(info.st_blocks) * 512;
  }
  auto claimed = room.claim(frozen.parent_path(), allocated);
  if (!claimed) return claimed.error();
  const Temporary whole(frozen.parent_path() / "upload.qcow2");
  // -U: the machine has the chain open, but writes to none of it.
  if (auto made = run_tool({"qemu-img", "convert", "-U", "-O", "qcow2", frozen.string(), whole.path.string()},
                           whole.path, stop, caps);
      !made)
    return made.error();
  Fd fd(::open(whole.path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return errno_error("open", whole.path.string(), errno);
  std::string block(kBlock, '\0');
  for (;;) {
    if (stop.stop_requested())
      return Error{ErrorKind::refused, "store disk", frozen.string(), "this epoch was given up"};
    const ssize_t n = ::read(fd.get(), block.data(), block.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("read", whole.path.string(), errno);
    if (n == 0) break;
    if (auto written = writer.write(std::string_view(block.data(), static_cast<std::size_t>(n))); !written)
      return written.error();
    pause(caps, stop);
  }
  return writer.commit();
}

}  // namespace stillpoint::node
