#include "coordinator/files/spools.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "common/file.h"
#include "common/log.h"
#include "common/random_id.h"
#include "coordinator/files/below.h"

namespace stillpoint::coordinator {
namespace {

namespace fs = std::filesystem;

Error no_spool(const std::string& id) {
  return Error{ErrorKind::not_found, "look-up", "spool " + id.substr(0, 40),
               "there is none; it may have been left unused too long"};
}

Status remove_tree(const fs::path& path) {
  std::error_code failed;
  fs::remove_all(path, failed);  // does not follow symlinks
  if (failed) return errno_error("removal", path.string(), failed.value());
  return {};
}

}  // namespace

bool is_spool_id(std::string_view id) { return id.size() == 32 && id.find_first_not_of("0123456789abcdef") == id.npos; }

// ---- an upload

Spools::Upload::~Upload() {
  if (!file_) return;
  file_.reset();
  ::unlink(partial_.c_str());
  spools_->ended(id_);
}

Status Spools::Upload::write(std::string_view data) {
  if (bytes_ + data.size() > spools_->limits_.file_bytes)
    return Error{ErrorKind::refused, "upload", name_,
                 "a file may have at most " + std::to_string(spools_->limits_.file_bytes) + " bytes"};
  if (auto charged = spools_->charge(id_, data.size()); !charged) return charged;
  if (auto room = room_for(spools_->root_, data.size()); !room) return room;
  if (auto written = write_at(file_.get(), data, bytes_, name_); !written) return written;
  bytes_ += data.size();
  return {};
}

Status Spools::Upload::commit(mode_t mode) {
  // Executable or not is all that the workdir needs; it is never less private here than 0700.
  if (::fchmod(file_.get(), (mode & 0777) | 0600) != 0) return errno_error("chmod", name_, errno);
  if (::fsync(file_.get()) != 0) return errno_error("fsync", name_, errno);
  auto place = place_below(spools_->directory(id_) / "files", name_, Missing::make);
  if (!place) return place.error();
  if (::renameat(AT_FDCWD, partial_.c_str(), place->directory.get(), place->leaf.c_str()) != 0)
    return errno_error("rename", name_, errno);
  if (::fsync(place->directory.get()) != 0) return errno_error("fsync", name_, errno);
  file_.reset();
  spools_->ended(id_);
  return {};
}

// ---- the spools

Status Spools::open(const std::set<std::string>& owned) {
  if (auto made = make_private_directory(root_); !made) return made;
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(root_, failed)) {
    const std::string id = entry.path().filename().string();
    if (owned.contains(id)) {
      Spool spool;
      spool.claimed = true;
      spools_.emplace(id, spool);
      if (auto removed = remove_tree(entry.path() / "partial"); !removed) return removed;
      continue;
    }
    log_info("left-over spool removed", {{"spool", id}});
    if (auto removed = remove_tree(entry.path()); !removed) return removed;
  }
  if (failed) return errno_error("listing", root_.string(), failed.value());
  return {};
}

// Under the mutex. The spools that go: those that their makers have abandoned, and when there are still too many, the
// one that was left alone for longest. Nothing is uploaded to any of them.
std::vector<std::string> Spools::make_room(std::chrono::steady_clock::time_point now) {
  std::vector<std::string> out;
  const auto idle = [](const Spool& spool) { return !spool.claimed && spool.uploads == 0; };
  for (const auto& [id, spool] : spools_)
    if (idle(spool) && now - spool.touched >= limits_.abandoned) out.push_back(id);
  const auto unclaimed = static_cast<std::size_t>(
      std::count_if(spools_.begin(), spools_.end(), [](const auto& s) { return !s.second.claimed; }));
  if (out.empty() && unclaimed >= limits_.unclaimed) {
    const auto oldest = std::min_element(spools_.begin(), spools_.end(), [&](const auto& a, const auto& b) {
      return std::pair(!idle(a.second), a.second.touched) < std::pair(!idle(b.second), b.second.touched);
    });
    if (oldest != spools_.end() && idle(oldest->second)) out.push_back(oldest->first);
  }
  for (const auto& id : out) spools_.erase(id);
  return out;
}

Result<std::string> Spools::create() {
  auto id = random_id();
  if (!id) return id.error();
  const auto now = std::chrono::steady_clock::now();
  std::vector<std::string> out;
  {
    std::lock_guard lock(mutex_);
    out = make_room(now);
    const auto unclaimed =
        std::count_if(spools_.begin(), spools_.end(), [](const auto& s) { return !s.second.claimed; });
    if (static_cast<std::size_t>(unclaimed) >= limits_.unclaimed)
      return Error{ErrorKind::transient, "creation", "spool",
                   "too many uploads without a submit are waiting; try again later"};
    spools_[*id].touched = now;
  }
  for (const auto& gone : out)
    if (auto removed = remove_tree(directory(gone)); !removed)
      log_warn("abandoned spool not removed", {{"spool", gone}, {"cause", removed.error().message()}});
  for (const auto& path : {directory(*id), directory(*id) / "files", directory(*id) / "partial"})
    if (auto made = make_private_directory(path); !made) {
      static_cast<void>(remove(*id));
      return made.error();
    }
  if (auto synced = sync_directory(root_); !synced) return synced.error();
  return id;
}

Result<std::unique_ptr<Spools::Upload>> Spools::begin(const std::string& id, const std::string& name) {
  if (!is_spool_id(id)) return no_spool(id);
  if (auto place = place_below(root_, name, Missing::error); !place && place.error().kind == ErrorKind::refused)
    return place.error();  // the name itself is at fault
  {
    std::lock_guard lock(mutex_);
    const auto found = spools_.find(id);
    if (found == spools_.end()) return no_spool(id);
    Spool& spool = found->second;
    if (spool.claimed) return Error{ErrorKind::refused, "upload", "spool " + id, "a job has taken it already"};
    if (spool.files >= limits_.files)
      return Error{ErrorKind::refused, "upload", "spool " + id,
                   "it may have at most " + std::to_string(limits_.files) + " files"};
    ++spool.files;
    ++spool.uploads;
    spool.touched = std::chrono::steady_clock::now();
  }
  std::unique_ptr<Upload> upload(new Upload);
  upload->spools_ = this;
  upload->id_ = id;
  upload->name_ = name;
  upload->partial_ = directory(id) / "partial" / std::to_string(next_partial_++);
  upload->file_ = Fd(::open(upload->partial_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!upload->file_) {
    const Error error = errno_error("upload", name, errno);
    ended(id);
    return error;
  }
  return upload;
}

Status Spools::charge(const std::string& id, std::uint64_t bytes) {
  std::lock_guard lock(mutex_);
  const auto found = spools_.find(id);
  if (found == spools_.end()) return no_spool(id);
  if (found->second.bytes + bytes > limits_.bytes)
    return Error{ErrorKind::refused, "upload", "spool " + id,
                 "it may have at most " + std::to_string(limits_.bytes) + " bytes"};
  found->second.bytes += bytes;
  found->second.touched = std::chrono::steady_clock::now();
  return {};
}

void Spools::ended(const std::string& id) {
  std::lock_guard lock(mutex_);
  if (const auto found = spools_.find(id); found != spools_.end()) --found->second.uploads;
}

Status Spools::claim(const std::string& id, const std::vector<std::string>& files) {
  if (id.empty()) {
    if (files.empty()) return {};
    return Error{ErrorKind::refused, "submission", "job", "it has input files but no spool"};
  }
  if (!is_spool_id(id)) return no_spool(id);
  {
    std::lock_guard lock(mutex_);
    const auto found = spools_.find(id);
    if (found == spools_.end()) return no_spool(id);
    if (found->second.claimed) return Error{ErrorKind::refused, "submission", "spool " + id, "another job has it"};
    if (found->second.uploads > 0)
      return Error{ErrorKind::refused, "submission", "spool " + id, "uploads to it are under way"};
    found->second.claimed = true;
  }
  std::string missing;
  for (const auto& file : files)
    if (auto opened = open_file(id, file); !opened) missing += (missing.empty() ? "" : ", ") + file;
  if (missing.empty()) return {};
  unclaim(id);
  return Error{ErrorKind::refused, "submission", "spool " + id, "these files of the job were not uploaded: " + missing};
}

void Spools::unclaim(const std::string& id) {
  std::lock_guard lock(mutex_);
  if (const auto found = spools_.find(id); found != spools_.end()) {
    found->second.claimed = false;
    found->second.touched = std::chrono::steady_clock::now();
  }
}

Status Spools::remove(const std::string& id) {
  if (!is_spool_id(id)) return {};
  {
    std::lock_guard lock(mutex_);
    spools_.erase(id);
  }
  return remove_tree(directory(id));
}

Result<Fd> Spools::open_file(const std::string& id, const std::string& name) const {
  if (!is_spool_id(id)) return no_spool(id);
  return open_below(directory(id) / "files", name, O_RDONLY);
}

}  // namespace stillpoint::coordinator
