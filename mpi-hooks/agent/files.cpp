#include "mpi-hooks/agent/files.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/fd.h"
#include "mpi-hooks/agent/paths.h"

namespace stillpoint::agent {
namespace {

constexpr char kPartSuffix[] = ".stillpoint-part";

Fd open_beneath(int directory, const std::string& path, int flags, unsigned mode = 0) {
  open_how how{};
  how.flags = static_cast<unsigned>(flags | O_CLOEXEC);
  how.mode = (flags & O_CREAT) != 0 ? mode : 0;  // openat2 takes a mode only for a file that it may make
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  return Fd(static_cast<int>(::syscall(SYS_openat2, directory, path.c_str(), &how, sizeof how)));
}

// The directory that path's last component lies in, made where it is missing.
Fd make_parents(int directory, std::string& path) {
  Fd at(::dup(directory));
  for (std::size_t slash; at && (slash = path.find('/')) != path.npos; path.erase(0, slash + 1)) {
    const std::string part = path.substr(0, slash);
    if (::mkdirat(at.get(), part.c_str(), 0755) != 0 && errno != EEXIST) return Fd();
    at = open_beneath(at.get(), part, O_PATH | O_DIRECTORY);
  }
  return at;
}

bool write_all(int fd, const std::string& data, off_t offset) {
  for (std::size_t done = 0; done < data.size();) {
    const ssize_t n = ::pwrite(fd, data.data() + done, data.size() - done, offset + static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    done += static_cast<std::size_t>(n);
  }
  return true;
}

}  // namespace

Done put_file(const std::string& workdir, const wire::PutFile& piece) {
  const std::string step = "put file";
  if (!is_plain_relative_path(piece.path()))
    return failure(wire::Failure::REFUSED, step, piece.path(), "the path leaves the work directory");
  if (piece.data().size() > kMaxFilePiece)
    return failure(wire::Failure::REFUSED, step, piece.path(), "a piece may hold 256 KiB at most");

  const Fd root(::open(workdir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root) return errno_failure(step, workdir);
  std::string name = piece.path();
  const Fd parent = make_parents(root.get(), name);
  if (!parent) return errno_failure(step, piece.path());
  const std::string part = name + kPartSuffix;

  const Fd file = open_beneath(parent.get(), part, O_WRONLY | O_NOFOLLOW | (piece.offset() == 0 ? O_CREAT : 0), 0600);
  struct stat status {};
  if (!file) {
    // The reply to the last piece may have been lost: the file stands under its own name then.
    if (errno == ENOENT && piece.last() && ::fstatat(parent.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
        static_cast<std::uint64_t>(status.st_size) == piece.offset() + piece.data().size())
      return Nothing{};
    return errno_failure(step, piece.path());
  }
  if (::fstat(file.get(), &status) != 0) return errno_failure(step, piece.path());
  if (static_cast<std::uint64_t>(status.st_size) < piece.offset())
    return failure(wire::Failure::REFUSED, step, piece.path(), "the pieces before this one have not arrived");
  if (!write_all(file.get(), piece.data(), static_cast<off_t>(piece.offset())))
    return errno_failure(step, piece.path());
  if (!piece.last()) return Nothing{};

  // A longer temporary of an earlier attempt must not lengthen the file.
  if (::ftruncate(file.get(), static_cast<off_t>(piece.offset() + piece.data().size())) != 0 ||
      ::fchmod(file.get(), piece.mode() & 0777) != 0 ||
      ::renameat(parent.get(), part.c_str(), parent.get(), name.c_str()) != 0)
    return errno_failure(step, piece.path());
  return Nothing{};
}

Outcome<wire::FileData> read_file_piece(const std::string& workdir, const wire::ReadFile& request) {
  const std::string step = "read file";
  if (!is_plain_relative_path(request.path()))
    return failure(wire::Failure::REFUSED, step, request.path(), "the path leaves the work directory");
  const Fd root(::open(workdir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root) return errno_failure(step, workdir);
  // O_NONBLOCK: a FIFO that the program left there must not stop the agent.
  const Fd file = open_beneath(root.get(), request.path(), O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!file) return errno_failure(step, request.path());
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return errno_failure(step, request.path());
  if (!S_ISREG(status.st_mode))
    return failure(wire::Failure::REFUSED, step, request.path(), "it is not a regular file");

  std::string data(std::min<std::size_t>(request.length(), kMaxFilePiece), '\0');
  std::size_t got = 0;
  while (got < data.size()) {
    const ssize_t n =
        ::pread(file.get(), data.data() + got, data.size() - got, static_cast<off_t>(request.offset() + got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_failure(step, request.path());
    if (n == 0) break;
    got += static_cast<std::size_t>(n);
  }
  data.resize(got);
  wire::FileData reply;
  reply.set_end(request.offset() + got >= static_cast<std::uint64_t>(status.st_size));
  reply.set_data(std::move(data));
  reply.set_size(static_cast<std::uint64_t>(status.st_size));
  reply.set_mode(status.st_mode & 0777);
  return reply;
}

}  // namespace stillpoint::agent
