#include "node-daemon/store/remote/local_blobs.h"

#include <algorithm>

#include "node-daemon/store/remote/blob_name.h"
#include "node-daemon/store/seal.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIncoming = ".incoming";
constexpr std::size_t kPiece = 1u << 20;
constexpr int kNamings = 16;  // attempts, while others take away the directory that has just become empty

}  // namespace

Result<std::unique_ptr<LocalBlobs>> LocalBlobs::make(Files& files, fs::path directory, std::string where) {
  std::unique_ptr<LocalBlobs> blobs(new LocalBlobs(files, std::move(directory), std::move(where)));
  const fs::path incoming = blobs->directory_ / kIncoming;
  for (const fs::path& path : {blobs->directory_, incoming}) {
    if (auto made = files.make_directory(path); !made) return made.error();
    if (auto synced = files.sync_directory(path.parent_path()); !synced) return synced.error();
  }
  auto names = files.list(incoming);
  if (!names) return names.error();
  for (const std::string& name : *names)
    if (auto removed = files.remove(incoming / name); !removed) return removed.error();
  return blobs;
}

Status LocalBlobs::put(const std::string& name, const ReadableFile& content, std::stop_token stop) {
  if (auto good = check_blob_name("store", name); !good) return good;
  auto id = random_id();
  if (!id) return id.error();
  const fs::path temporary = directory_ / kIncoming / hex(as_text(*id));
  auto done = write(temporary, content, stop);
  if (done) done = publish(temporary, name);
  if (!done) (void)files_.remove(temporary);
  return done;
}

Status LocalBlobs::write(const fs::path& path, const ReadableFile& content, const std::stop_token& stop) {
  auto file = files_.create(path);
  if (!file) return file.error();
  const std::uint64_t size = content.size();
  for (std::uint64_t offset = 0; offset < size; offset += kPiece) {
    if (stop.stop_requested()) return Error{ErrorKind::refused, "store", path.string(), "stopped as asked"};
    auto piece = content.read(offset, std::min<std::uint64_t>(kPiece, size - offset));
    if (!piece) return piece.error();
    if (auto written = (*file)->append(*piece); !written) return written;
  }
  return (*file)->sync();
}

Status LocalBlobs::publish(const fs::path& temporary, const fs::path& name) {
  const fs::path path = directory_ / name;
  for (int attempt = 1;; ++attempt) {
    if (auto made = make_directories(name.parent_path()); !made) return made;
    auto named = files_.rename(temporary, path);
    if (named) return files_.sync_directory(path.parent_path());
    if (named.error().kind != ErrorKind::not_found || attempt == kNamings) return named;
  }
}

Status LocalBlobs::make_directories(const fs::path& name) {
  fs::path path = directory_;
  for (const fs::path& part : name) {
    const fs::path above = path;
    path /= part;
    auto made = files_.make_directory(path);
    if (!made && made.error().kind == ErrorKind::not_found) return {};  // removed meanwhile: publish() sees it
    if (!made) return made;
    auto synced = files_.sync_directory(above);
    if (!synced && synced.error().kind != ErrorKind::not_found) return synced;
  }
  return {};
}

Result<std::shared_ptr<const ReadableFile>> LocalBlobs::open(const std::string& name) {
  if (auto good = check_blob_name("open", name); !good) return good.error();
  return files_.open(directory_ / name);
}

Result<std::vector<std::string>> LocalBlobs::list(const std::string& directory) {
  if (auto good = check_blob_directory("list", directory); !good) return good.error();
  auto names = files_.list(directory.empty() ? directory_ : directory_ / directory);
  if (names) std::erase_if(*names, [](const std::string& name) { return !check_blob_name("", name); });
  return names;
}

Status LocalBlobs::remove(const std::string& name) {
  if (auto good = check_blob_name("delete", name); !good) return good;
  if (auto removed = files_.remove(directory_ / name); !removed) return removed;
  for (fs::path above = fs::path(name).parent_path(); !above.empty(); above = above.parent_path())
    if (auto removed = files_.remove_directory(directory_ / above); !removed) return removed;
  return {};
}

}  // namespace stillpoint::node
