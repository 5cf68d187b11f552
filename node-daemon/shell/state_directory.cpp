#include "node-daemon/shell/state_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <sstream>

#include "common/file.h"
#include "common/framing.h"
#include "common/log.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

Status make_directory(const fs::path& path) {
  if (::mkdir(path.c_str(), 0700) == 0) return sync_directory(path.parent_path());
  if (errno == EEXIST) return {};
  return errno_error("make directory", path.string(), errno);
}

Status remove_tree(const fs::path& path) {
  std::error_code failed;
  fs::remove_all(path, failed);
  if (failed) return errno_error("remove", path.string(), failed.value());
  auto synced = sync_directory(path.parent_path());
  return !synced && synced.error().kind == ErrorKind::not_found ? Status{} : synced;
}

Result<std::string> boot_id() {
  auto id = read_file("/proc/sys/kernel/random/boot_id", 64);
  if (id && id->ends_with('\n')) id->pop_back();
  return id;
}

template <class Record>
Status store(const fs::path& path, const Record& record) {
  const std::string bytes = record.SerializeAsString();
  if (bytes.size() > kMaxFramePayload)
    return Error{ErrorKind::permanent, "store record", path.string(), "it is too large"};
  return publish_file(path, encode_frame(bytes));
}

template <class Record>
Result<Record> load(const fs::path& path) {
  auto content = read_file(path);
  if (!content) return content.error();
  FrameReader reader;
  reader.feed(*content);
  const auto payload = reader.next();
  Record record;
  if (!payload || reader.skipped() > 0 || !record.ParseFromString(*payload))
    return Error{ErrorKind::damaged, "read record", path.string(), "it is not a record of this version, or damaged"};
  return record;
}

// What publish_file() left when its process was killed.
Status remove_unfinished(const fs::path& directory, const std::string& name) {
  std::error_code failed;
  for (fs::directory_iterator entry(directory, failed), end; !failed && entry != end; entry.increment(failed))
    if (entry->path().filename().string().starts_with(name + ".") && ::unlink(entry->path().c_str()) != 0)
      return errno_error("remove", entry->path().string(), errno);
  if (failed) return errno_error("read directory", directory.string(), failed.value());
  return {};
}

}  // namespace

Result<StateDirectory> StateDirectory::open(const fs::path& given) {
  std::error_code failed;
  const fs::path path = fs::absolute(given, failed).lexically_normal();
  fs::create_directories(path.parent_path(), failed);
  if (auto made = make_directory(path); !made) return made.error();
  if (::chmod(path.c_str(), 0700) != 0) return errno_error("chmod", path.string(), errno);
  Fd lock(::open((path / "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock) return errno_error("open", (path / "lock").string(), errno);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0)
    return Error{ErrorKind::refused, "lock", path.string(), "another node daemon uses this state directory"};
  for (const char* name : {"gangs", "libvirt"})
    if (auto made = make_directory(path / name); !made) return made.error();
  if (auto cleared = remove_unfinished(path, "host.record"); !cleared) return cleared.error();
  return StateDirectory(path, std::move(lock));
}

fs::path StateDirectory::gang_directory(const GangId& gang) const {
  return path_ / "gangs" / (gang.job.value + "-" + std::to_string(gang.incarnation.value));
}

fs::path StateDirectory::guest_directory(const DomainId& id) const {
  return gang_directory(gang_of(id)) / ("guest-" + std::to_string(id.guest.value));
}

Result<record::Host> StateDirectory::load_host() const {
  auto record = load<record::Host>(path_ / "host.record");
  if (!record && record.error().kind == ErrorKind::not_found) return record::Host();
  return record;
}

Status StateDirectory::store_host(const record::Host& host) const { return store(path_ / "host.record", host); }

Status StateDirectory::store_last_word(std::chrono::milliseconds since_boot) const {
  auto boot = boot_id();
  if (!boot) return boot.error();
  const fs::path path = path_ / "last-word";
  const std::string text = fmt::format("{} {:020}\n", *boot, since_boot.count());  // always of the same length
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) return errno_error("open", path.string(), errno);
  const ssize_t n = ::pwrite(fd.get(), text.data(), text.size(), 0);
  if (n < 0) return errno_error("write", path.string(), errno);
  if (static_cast<std::size_t>(n) != text.size()) return errno_error("write", path.string(), ENOSPC);
  return {};
}

Result<std::optional<std::chrono::milliseconds>> StateDirectory::load_last_word() const {
  auto boot = boot_id();
  if (!boot) return boot.error();
  auto text = read_file(path_ / "last-word", 4096);
  if (!text && text.error().kind == ErrorKind::not_found) return std::nullopt;
  if (!text) return text.error();
  std::istringstream in(*text);
  std::string of;
  std::int64_t since_boot = 0;
  if (!(in >> of >> since_boot) || of != *boot) return std::nullopt;
  return std::chrono::milliseconds(since_boot);
}

Result<std::vector<record::Gang>> StateDirectory::load_gangs(std::vector<fs::path>& unreadable) const {
  std::vector<record::Gang> gangs;
  std::error_code failed;
  for (fs::directory_iterator entry(path_ / "gangs", failed), end; !failed && entry != end; entry.increment(failed)) {
    auto gang = load<record::Gang>(entry->path() / "record");
    if (gang && gang_directory(gang_of(gang->gang())) == entry->path()) {
      gangs.push_back(std::move(*gang));
      continue;
    }
    // What runs without a usable record is going to be destroyed: a disk that fails just now must not have that effect.
    if (!gang && gang.error().kind != ErrorKind::damaged && gang.error().kind != ErrorKind::not_found)
      return gang.error();
    log_error(
        "gang's record cannot be used",
        {{"path", entry->path().string()}, {"cause", gang ? "it belongs to another gang" : gang.error().message()}});
    unreadable.push_back(entry->path());
  }
  if (failed) return errno_error("read directory", (path_ / "gangs").string(), failed.value());
  return gangs;
}

Status StateDirectory::store_gang(const record::Gang& gang) const {
  const fs::path directory = gang_directory(gang_of(gang.gang()));
  if (auto made = make_directory(directory); !made) return made;
  return store(directory / "record", gang);
}

Status StateDirectory::remove_gang(const GangId& gang) const { return remove_tree(gang_directory(gang)); }
Status StateDirectory::remove_guest(const DomainId& id) const { return remove_tree(guest_directory(id)); }

}  // namespace stillpoint::node
