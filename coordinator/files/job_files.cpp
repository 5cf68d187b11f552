#include "coordinator/files/job_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "common/file.h"
#include "common/log.h"
#include "common/names.h"
#include "coordinator/files/below.h"

namespace stillpoint::coordinator {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBatch = 256;  // appends that share one fdatasync

std::size_t weight(const JobFiles::Work& work) {
  constexpr std::size_t kItself = 256;
  if (const auto* append = std::get_if<AppendOutput>(&work)) return kItself + append->data.size();
  if (const auto* piece = std::get_if<StoreOutputPiece>(&work)) return kItself + piece->data.size();
  return kItself;
}

std::string kept_name(Epoch epoch) { return fmt::format("output.e{}", epoch.value); }

// The kernel copies, and where the file system can, the two files share what they have in common: no byte is moved.
Status copy_beginning(int from, int to, std::uint64_t length, const std::string& object) {
  std::uint64_t at = 0;
  while (at < length) {
    auto read = static_cast<off64_t>(at), write = read;
    const ssize_t n = ::copy_file_range(from, &read, to, &write,
                                        static_cast<std::size_t>(std::min<std::uint64_t>(length - at, 1u << 30)), 0);
    if (n > 0) {
      at += static_cast<std::uint64_t>(n);
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EXDEV && errno != ENOSYS && errno != EINVAL && errno != EOPNOTSUPP)
      return errno_error("copying", object, errno);
    // Not here: through our own memory.
    auto part = read_at(from, at, static_cast<std::size_t>(std::min<std::uint64_t>(length - at, 1u << 20)), object);
    if (!part) return part.error();
    if (part->empty()) return Error{ErrorKind::damaged, "copying", object, fmt::format("it ends at {}", at)};
    if (auto written = write_at(to, *part, at, object); !written) return written;
    at += part->size();
  }
  return {};
}

bool safe_job(const JobId& job) { return safe_relative_name(job.value) && job.value.find('/') == std::string::npos; }

}  // namespace

Status JobFiles::open(const std::set<JobId>& jobs, const std::function<bool(const JobId&)>& is_lost) {
  if (auto made = make_private_directory(root_); !made) return made;
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(root_, failed)) {
    const JobId job{entry.path().filename().string()};
    if (jobs.contains(job)) {
      auto file = open_below(entry.path(), "output", O_RDONLY);
      auto length = file ? size_of(file->get(), "output of " + job.value) : Result<std::uint64_t>(file.error());
      if (length) set_length(job, *length);
      else if (length.error().kind != ErrorKind::not_found)  // else nothing was printed yet
        log_error("output of a job not readable", {{"job", job.value}, {"cause", length.error().message()}});
      continue;
    }
    if (is_lost && is_lost(job)) continue;
    log_info("left-over files of a removed job removed", {{"job", entry.path().filename().string()}});
    fs::remove_all(entry.path(), failed);
    if (failed) return errno_error("removal", entry.path().string(), failed.value());
  }
  if (failed) return errno_error("listing", root_.string(), failed.value());
  return {};
}

void JobFiles::start(Tell tell) {
  tell_ = std::move(tell);
  worker_ = std::thread([this] { run(); });
}

void JobFiles::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (worker_.joinable()) worker_.join();
}

void JobFiles::push(Work work) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return stopping_ || queued_ < queue_bytes_; });
  if (stopping_) return;
  queued_ += weight(work);
  queue_.push_back(std::move(work));
  changed_.notify_all();
}

void JobFiles::run() {
  for (;;) {
    std::deque<Work> batch;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      while (!queue_.empty() && batch.size() < kBatch) {
        batch.push_back(std::move(queue_.front()));
        queue_.pop_front();
      }
    }
    std::size_t done = 0;
    for (auto& work : batch) {
      done += weight(work);
      if (!std::holds_alternative<AppendOutput>(work)) sync_appended();  // in the order that was asked
      carry_out(work);
    }
    sync_appended();
    std::lock_guard lock(mutex_);
    queued_ -= done;
    changed_.notify_all();
  }
}

void JobFiles::carry_out(Work& work) {
  if (auto* append_work = std::get_if<AppendOutput>(&work)) {
    if (auto appended = append(*append_work); !appended) tell_(OutputFailed{append_work->job, appended.error()});
  } else if (auto* kept = std::get_if<KeepOutput>(&work)) {
    if (auto done = keep(*kept); !done)
      log_error("output of an epoch not kept",
                {{"job", kept->job.value}, {"epoch", kept->epoch.value}, {"cause", done.error().message()}});
  } else if (auto* unkept = std::get_if<DropOutput>(&work)) {
    const fs::path kept_file = directory(unkept->job) / kept_name(unkept->epoch);
    if (safe_job(unkept->job) && ::unlink(kept_file.c_str()) != 0 && errno != ENOENT && errno != ENOTDIR)
      log_warn("output of an epoch not removed",
               {{"job", unkept->job.value}, {"file", kept_file.string()}, {"errno", errno}});
  } else if (auto* cut = std::get_if<TruncateOutput>(&work)) {
    auto length = truncate(*cut);
    if (length) tell_(OutputDurable{cut->job, *length, cut->number});
    else tell_(OutputFailed{cut->job, length.error(), cut->number});
  } else if (auto* measure = std::get_if<MeasureOutput>(&work)) {
    auto output = output_of(measure->job);
    if (!output) tell_(OutputFailed{measure->job, output.error()});
    // sync_appended() makes sure of what was found and answers.
  } else if (auto* read = std::get_if<ReadSpool>(&work)) {
    tell_(read_spool(*read));
  } else if (auto* piece = std::get_if<StoreOutputPiece>(&work)) {
    auto stored = store(*piece);
    if (!stored) {
      log_error("output file not stored",
                {{"job", piece->job.value}, {"file", piece->file}, {"cause", stored.error().message()}});
      drop_pieces(piece->job, piece->file);
    }
    tell_(OutputPieceStored{piece->job, piece->file, piece->offset,
                            stored ? std::nullopt : std::optional(stored.error())});
  } else if (auto* pieces = std::get_if<DropOutputPieces>(&work)) {
    drop_pieces(pieces->job, pieces->file);
  } else if (auto* dropped = std::get_if<DropJobFiles>(&work)) {
    drop(*dropped);
  } else {
    std::get<std::function<void()>>(work)();
  }
}

// ---- the program's output

Result<JobFiles::Appended*> JobFiles::output_of(const JobId& job) {
  if (const auto found = appended_.find(job); found != appended_.end()) return &found->second;
  if (!safe_job(job)) return Error{ErrorKind::refused, "opening", job.value, "not a job's name"};
  struct stat info {};
  const bool is_new = ::lstat(directory(job).c_str(), &info) != 0;
  if (auto made = make_private_directory(directory(job)); !made) return made.error();
  auto file = open_below(directory(job), "output", O_RDWR | O_CREAT);
  if (!file) return file.error();
  if (is_new)
    for (const auto& made : {root_, directory(job)})
      if (auto synced = sync_directory(made); !synced) return synced.error();
  auto length = size_of(file->get(), "output of " + job.value);
  if (!length) return length.error();
  if (!synced_.contains(job)) {
    // What an earlier run of the coordinator wrote last may be in the page cache only.
    if (::fdatasync(file->get()) != 0) return errno_error("fdatasync", "output of " + job.value, errno);
    synced_.insert(job);
    set_length(job, *length);
  }
  return &(appended_[job] = Appended{std::move(*file), *length});
}

Status JobFiles::append(const AppendOutput& work) {
  const std::string object = "output of " + work.job.value;
  auto output = output_of(work.job);
  if (!output) return output.error();
  const std::uint64_t length = (*output)->length, end = work.offset + work.data.size();
  if (work.offset > length)
    return Error{ErrorKind::permanent, "append", object,
                 "bytes " + std::to_string(length) + " to " + std::to_string(work.offset) + " are missing"};
  if (end <= length) return {};  // here already: a host sent it again
  if (auto room = room_for(root_, end - length); !room) return room;
  const std::string_view fresh = std::string_view(work.data).substr(length - work.offset);
  if (auto written = write_at((*output)->file.get(), fresh, length, object); !written) {
    // A part of it must not be taken for output later.
    if (::ftruncate((*output)->file.get(), static_cast<off_t>(length)) != 0)
      log_error("torn output not cut back", {{"job", work.job.value}, {"errno", errno}});
    return written;
  }
  (*output)->length = end;
  return {};
}

void JobFiles::sync_appended() {
  for (auto& [job, output] : appended_) {
    if (::fdatasync(output.file.get()) != 0) {
      const Error error = errno_error("fdatasync", "output of " + job.value, errno);
      // The kernel may have thrown the written pages away: they must be written again, not taken as there.
      if (::ftruncate(output.file.get(), static_cast<off_t>(length_of(job))) != 0)
        log_error("output not cut back", {{"job", job.value}, {"errno", errno}});
      tell_(OutputFailed{job, error});
      continue;
    }
    set_length(job, output.length);
    tell_(OutputDurable{job, output.length});
  }
  appended_.clear();
}

// The file of the epoch's history stays, under a name of the epoch's, when a restart makes another one the present.
Status JobFiles::keep(const KeepOutput& work) {
  if (auto output = output_of(work.job); !output) return output.error();
  const fs::path present = directory(work.job) / "output", kept = directory(work.job) / kept_name(work.epoch);
  if (::link(present.c_str(), kept.c_str()) != 0 && errno != EEXIST) return errno_error("link", kept.string(), errno);
  return sync_directory(directory(work.job));
}

// A new file, so that the ones which epochs have kept stay as they are.
Result<std::uint64_t> JobFiles::truncate(const TruncateOutput& work) {
  if (auto output = output_of(work.job); !output) return output.error();
  appended_.erase(work.job);
  auto source = open_below(directory(work.job), kept_name(work.epoch), O_RDONLY);
  if (!source && source.error().kind == ErrorKind::not_found)
    source = open_below(directory(work.job), "output", O_RDONLY);
  if (!source) return source.error();
  const std::string object = "output of " + work.job.value;
  auto size = size_of(source->get(), object);
  if (!size) return size.error();
  const std::uint64_t length = std::min(*size, work.offset);
  if (auto room = room_for(root_, length); !room) return room.error();
  const fs::path next = directory(work.job) / "output.next";
  ::unlink(next.c_str());
  auto file = open_below(directory(work.job), "output.next", O_RDWR | O_CREAT | O_EXCL);
  if (!file) return file.error();
  if (auto copied = copy_beginning(source->get(), file->get(), length, object); !copied) return copied.error();
  if (::fsync(file->get()) != 0) return errno_error("fsync", object, errno);
  {
    std::lock_guard lock(readable_);
    if (::rename(next.c_str(), (directory(work.job) / "output").c_str()) != 0)
      return errno_error("rename", object, errno);
    set_length(work.job, length);
  }
  if (auto synced = sync_directory(directory(work.job)); !synced) return synced.error();
  return length;
}

void JobFiles::set_length(const JobId& job, std::uint64_t length) {
  std::lock_guard lock(lengths_mutex_);
  lengths_[job] = length;
}

std::uint64_t JobFiles::length_of(const JobId& job) const {
  std::lock_guard lock(lengths_mutex_);
  const auto known = lengths_.find(job);
  return known == lengths_.end() ? 0 : known->second;
}

Result<JobFiles::Part> JobFiles::read_output(const JobId& job, std::uint64_t offset, std::size_t most) {
  if (!safe_job(job)) return Error{ErrorKind::not_found, "reading", job.value, "no such job"};
  Part part;
  Fd file;
  {
    std::lock_guard lock(readable_);  // the file and the length are of the same stream
    auto opened = open_below(directory(job), "output", O_RDONLY);
    if (!opened && opened.error().kind == ErrorKind::not_found) return part;  // nothing was printed yet
    if (!opened) return opened.error();
    file = std::move(*opened);
    part.length = length_of(job);
  }
  if (offset >= part.length) return part;
  const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(most, part.length - offset));
  auto data = read_at(file.get(), offset, length, "output of " + job.value);
  if (!data) return data.error();
  part.data = std::move(*data);
  return part;
}

Result<std::string> JobFiles::read_output_of(const JobId& job, Epoch epoch, std::uint64_t offset, std::size_t most) {
  if (!safe_job(job)) return Error{ErrorKind::not_found, "reading", job.value, "no such job"};
  Fd file;
  {
    std::lock_guard lock(readable_);
    auto opened = open_below(directory(job), kept_name(epoch), O_RDONLY);
    if (!opened && opened.error().kind == ErrorKind::not_found) opened = open_below(directory(job), "output", O_RDONLY);
    if (!opened && opened.error().kind == ErrorKind::not_found) return std::string();  // nothing was printed yet
    if (!opened) return opened.error();
    file = std::move(*opened);
  }
  return read_at(file.get(), offset, most, "output of " + job.value);
}

// ---- input and output files

SpoolRead JobFiles::read_spool(const ReadSpool& work) const {
  SpoolRead answer{work.job, work.file, work.offset, {}, false, 0, {}, false};
  auto fail = [&answer](Error error) {
    answer.failed = true;
    answer.error = std::move(error);
    return answer;
  };
  auto file = spools_.open_file(work.spool, work.file);
  if (!file) return fail(file.error());
  struct stat info {};
  if (::fstat(file->get(), &info) != 0) return fail(errno_error("stat", work.file, errno));
  auto data = read_at(file->get(), work.offset, work.length, work.file);
  if (!data) return fail(data.error());
  answer.mode = info.st_mode & 0777;
  answer.last = work.offset + data->size() >= static_cast<std::uint64_t>(info.st_size);
  answer.data = std::move(*data);
  return answer;
}

Status JobFiles::store(const StoreOutputPiece& work) {
  if (!safe_job(work.job)) return Error{ErrorKind::refused, "storing of a file", work.job.value, "not a job's name"};
  const auto partial = directory(work.job) / "partial", whole = directory(work.job) / "outputs";
  for (const auto& path : {directory(work.job), partial, whole})
    if (auto made = make_private_directory(path); !made) return made;
  if (auto room = room_for(root_, work.data.size()); !room) return room;
  auto file =
      open_below(partial, work.file, O_WRONLY | O_CREAT | (work.offset == 0 ? O_TRUNC : 0), 0600, Missing::make);
  if (!file) return file.error();
  auto size = size_of(file->get(), work.file);
  if (!size) return size.error();
  if (*size != work.offset)
    return Error{ErrorKind::refused, "storing of a file", work.file,
                 fmt::format("a piece at {} does not follow the {} bytes that are there", work.offset, *size)};
  if (auto written = write_at(file->get(), work.data, work.offset, work.file); !written) return written;
  if (!work.last) return {};
  if (::fsync(file->get()) != 0) return errno_error("fsync", work.file, errno);
  auto from = place_below(partial, work.file, Missing::error);
  if (!from) return from.error();
  auto to = place_below(whole, work.file, Missing::make);
  if (!to) return to.error();
  if (::renameat(from->directory.get(), from->leaf.c_str(), to->directory.get(), to->leaf.c_str()) != 0)
    return errno_error("rename", work.file, errno);
  if (::fsync(to->directory.get()) != 0) return errno_error("fsync", work.file, errno);
  return {};
}

void JobFiles::drop_pieces(const JobId& job, const std::string& file) {
  if (!safe_job(job)) return;
  const auto place = place_below(directory(job) / "partial", file, Missing::error);
  if (place && ::unlinkat(place->directory.get(), place->leaf.c_str(), 0) != 0 && errno != ENOENT)
    log_warn("part of an output not removed", {{"job", job.value}, {"file", file}, {"errno", errno}});
}

Result<std::vector<JobFiles::OutputFile>> JobFiles::outputs(const JobId& job) const {
  std::vector<OutputFile> files;
  if (!safe_job(job)) return Error{ErrorKind::not_found, "listing of outputs", job.value, "no such job"};
  const auto whole = directory(job) / "outputs";
  std::error_code failed;
  if (!fs::exists(whole, failed)) return files;
  for (const auto& entry : fs::recursive_directory_iterator(whole, failed))
    if (entry.is_regular_file(failed) && !entry.is_symlink())
      files.push_back({entry.path().lexically_relative(whole).string(), entry.file_size(failed)});
  if (failed) return errno_error("listing of outputs", job.value, failed.value());
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return files;
}

Result<Fd> JobFiles::open_output(const JobId& job, const std::string& name) const {
  if (!safe_job(job)) return Error{ErrorKind::not_found, "opening", job.value, "no such job"};
  return open_below(directory(job) / "outputs", name, O_RDONLY);
}

void JobFiles::drop(const DropJobFiles& work) {
  if (auto removed = spools_.remove(work.spool); !removed)
    log_warn("spool not removed", {{"job", work.job.value}, {"cause", removed.error().message()}});
  if (!safe_job(work.job)) return;
  const fs::path gone = root_ / (".gone-" + work.job.value);  // open() removes it when this is cut short
  {
    std::lock_guard lock(readable_);
    if (::rename(directory(work.job).c_str(), gone.c_str()) != 0 && errno != ENOENT)
      log_warn("files of a job not put away", {{"job", work.job.value}, {"errno", errno}});
    std::lock_guard lengths(lengths_mutex_);
    lengths_.erase(work.job);
  }
  synced_.erase(work.job);
  std::error_code failed;
  fs::remove_all(gone, failed);
  if (failed) log_warn("files of a job not removed", {{"job", work.job.value}, {"cause", failed.message()}});
}

}  // namespace stillpoint::coordinator
