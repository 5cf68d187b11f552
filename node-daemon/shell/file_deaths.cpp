#include "node-daemon/shell/file_deaths.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <filesystem>
#include <mutex>

namespace stillpoint::node::test {
namespace {

struct Watch {
  std::string directory;
  int record = -1;
  FileDeath death;
  std::mutex mutex;
  int seen = 0;
};
Watch* watch = nullptr;  // set once, before there are threads

bool is_id(std::string_view text) { return text.find_first_not_of("0123456789abcdef") == text.npos; }

std::string plain(const std::string& path) {
  std::string name = path.substr(watch->directory.size() + 1);
  for (std::size_t at = 0; at + 32 <= name.size(); ++at)
    if (is_id(std::string_view(name).substr(at, 32))) name.replace(at, 32, "ID");
  if (name.size() > 7 && name[name.size() - 7] == '.' && !name.ends_with(".record"))
    name.replace(name.size() - 6, 6, "TMP");
  return name;
}

std::string path_of(int fd) {
  char target[4096];
  const ssize_t n = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), target, sizeof target);
  return n > 0 ? std::string(target, static_cast<std::size_t>(n)) : std::string();
}

std::string path_at(int directory, const char* name) {
  return name[0] == '/' || directory == AT_FDCWD ? name : path_of(directory) + "/" + name;
}

// One system call that may be the one to die at.
class Step {
 public:
  Step(const char* what, const std::string& path) {
    if (watch == nullptr || !path.starts_with(watch->directory + "/")) return;
    const std::string text = std::string(what) + " " + plain(path);
    const std::lock_guard lock(watch->mutex);
    if (watch->record >= 0) {
      const std::string line = text + "\n";
      ::syscall(SYS_write, watch->record, line.data(), line.size());
    }
    chosen_ = text == watch->death.step && ++watch->seen == watch->death.occurrence;
    if (chosen_ && watch->death.when == FileDeath::When::before) die();
  }
  bool half_way() const { return chosen_ && watch->death.when == FileDeath::When::half_way; }
  long done(long result) const {
    if (chosen_) die();
    return result;
  }

 private:
  static void die() {
    ::kill(::getpid(), SIGKILL);
    for (;;) ::pause();
  }
  bool chosen_ = false;
};

long open_at(int directory, const char* name, int flags, mode_t mode) {
  if ((flags & O_CREAT) == 0) return ::syscall(SYS_openat, directory, name, flags, mode);
  const std::string path = path_at(directory, name);
  if (::faccessat(directory, name, F_OK, 0) == 0) return ::syscall(SYS_openat, directory, name, flags, mode);
  const Step step("create", path);
  return step.done(::syscall(SYS_openat, directory, name, flags, mode));
}

bool is_file(int fd) {
  struct stat info {};
  return ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
}

}  // namespace

void watch_files(const std::string& directory, const std::string& record, const FileDeath& death) {
  auto* made = new Watch;  // as long as the process
  made->directory = directory;
  made->death = death;
  if (!record.empty())
    made->record = static_cast<int>(
        ::syscall(SYS_openat, AT_FDCWD, record.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  watch = made;
}

}  // namespace stillpoint::node::test

using stillpoint::node::test::is_file;
using stillpoint::node::test::open_at;
using stillpoint::node::test::path_at;
using stillpoint::node::test::path_of;
using stillpoint::node::test::Step;

extern "C" {

int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return static_cast<int>(open_at(AT_FDCWD, path, flags, mode));
}

int mkostemp(char* name, int flags) {
  static constexpr char kLetters[] = "abcdefghijklmnopqrstuvwxyz";
  static int made = 0;
  char* const end = name + std::char_traits<char>::length(name) - 6;
  for (int attempt = 0; attempt < 1000; ++attempt) {
    int number = ::getpid() * 131 + ++made;
    for (int i = 0; i < 6; ++i, number /= 26) end[i] = kLetters[number % 26];
    const int fd = static_cast<int>(open_at(AT_FDCWD, name, O_RDWR | O_CREAT | O_EXCL | flags, 0600));
    if (fd >= 0 || errno != EEXIST) return fd;
  }
  return -1;
}

ssize_t write(int fd, const void* bytes, size_t count) {
  if (!is_file(fd)) return ::syscall(SYS_write, fd, bytes, count);
  const Step step("write", path_of(fd));
  if (step.half_way()) return step.done(::syscall(SYS_write, fd, bytes, count / 2));
  return step.done(::syscall(SYS_write, fd, bytes, count));
}

ssize_t pwrite(int fd, const void* bytes, size_t count, off_t offset) {
  const Step step("write", path_of(fd));
  if (step.half_way()) return step.done(::syscall(SYS_pwrite64, fd, bytes, count / 2, offset));
  return step.done(::syscall(SYS_pwrite64, fd, bytes, count, offset));
}

int fsync(int fd) {
  const Step step("fsync", path_of(fd));
  return static_cast<int>(step.done(::syscall(SYS_fsync, fd)));
}

int ftruncate(int fd, off_t length) noexcept {
  const Step step("truncate", path_of(fd));
  return static_cast<int>(step.done(::syscall(SYS_ftruncate, fd, length)));
}

int rename(const char* from, const char* to) noexcept {
  const Step step("rename", to);
  return static_cast<int>(step.done(::syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to)));
}

int link(const char* from, const char* to) noexcept {
  const Step step("link", to);
  return static_cast<int>(step.done(::syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0)));
}

int linkat(int from_directory, const char* from, int to_directory, const char* to, int flags) noexcept {
  const Step step("link", path_at(to_directory, to));
  return static_cast<int>(step.done(::syscall(SYS_linkat, from_directory, from, to_directory, to, flags)));
}

int unlink(const char* path) noexcept {
  const Step step("remove", path);
  return static_cast<int>(step.done(::syscall(SYS_unlinkat, AT_FDCWD, path, 0)));
}

int unlinkat(int directory, const char* name, int flags) noexcept {
  const Step step((flags & AT_REMOVEDIR) != 0 ? "remove directory" : "remove", path_at(directory, name));
  return static_cast<int>(step.done(::syscall(SYS_unlinkat, directory, name, flags)));
}

int rmdir(const char* path) noexcept {
  const Step step("remove directory", path);
  return static_cast<int>(step.done(::syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR)));
}

int mkdir(const char* path, mode_t mode) noexcept {
  const Step step("make directory", path);
  return static_cast<int>(step.done(::syscall(SYS_mkdirat, AT_FDCWD, path, mode)));
}
}
