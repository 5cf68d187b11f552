#include "node-daemon/store/checkpoint_records.h"

#include <algorithm>

#include "node-daemon/store/bytes.h"
#include "node-daemon/store/chunk_store.h"
#include "node-daemon/store/seal.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMagic = "stillrec";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kHeaderBytes = 8 + 4 + 4 + 8 + 16 + 8;
constexpr std::uint64_t kMaxFileBytes = kHeaderBytes + kMaxRecordBytes + kTagBytes;

fs::path directory(const fs::path& store) { return store / "records"; }

Error damaged(const std::string& name, std::string cause) {
  return {ErrorKind::damaged, "read record", name, std::move(cause)};
}

std::string header_of(const Id& id, std::uint64_t key, std::uint32_t revision, std::uint64_t sealed) {
  std::string header(kMagic);
  put_le(header, kVersion);
  put_le(header, revision);
  put_le(header, key);
  header += as_text(id);
  put_le(header, sealed);
  return header;
}

}  // namespace

std::string record_name(const JobId& job, Epoch epoch) {
  return is_host_directory(job.value) ? job.value + "/e" + std::to_string(epoch.value) : "";
}

Result<std::string> seal_record(const std::string& name, const CheckpointRecordFile& record, const SiteKey& key) {
  if (record.content.size() > kMaxRecordBytes)
    return Error{ErrorKind::refused, "keep record", name, "it is longer than this version can keep"};
  auto id = random_id();
  if (!id) return id.error();
  std::string file = header_of(*id, key.id, record.revision, record.content.size() + kTagBytes);
  const std::string context = file + name;
  if (auto sealed = Sealer(derive(key.key, "record", as_text(*id))).seal(0, context, record.content, file); !sealed)
    return sealed.error();
  return file;
}

Result<CheckpointRecordFile> open_record(const std::string& name, std::string_view file, const SiteKeys& keys) {
  if (file.size() < kHeaderBytes) return damaged(name, "it ends too early");
  const std::string_view header = file.substr(0, kHeaderBytes);
  ByteReader in(header);
  if (in.bytes(kMagic.size()) != kMagic) return damaged(name, "it does not begin like a record");
  if (in.number<std::uint32_t>() != kVersion) return damaged(name, "its version is not known here");
  CheckpointRecordFile record;
  record.revision = in.number<std::uint32_t>();
  const auto number = in.number<std::uint64_t>();
  const SiteKey* key = keys.find(number);
  if (key == nullptr) return damaged(name, missing_key(number, keys).cause);
  const std::string_view id = in.bytes(sizeof(Id));
  if (in.number<std::uint64_t>() != file.size() - kHeaderBytes)
    return damaged(name, "its length is not the one that its head says");
  auto content = Sealer(derive(key->key, "record", id)).open(0, std::string(header) + name, file.substr(kHeaderBytes));
  if (!content) return damaged(name, "it is not what was written");
  record.content = std::move(*content);
  return record;
}

Status keep_record(Files& files, const fs::path& store, const std::string& name, const CheckpointRecordFile& record,
                   const SiteKeys& keys) {
  if (const auto known = read_record(files, store, name, keys); known && known->revision >= record.revision) return {};
  auto file = seal_record(name, record, keys.active());
  if (!file) return file.error();
  const fs::path path = directory(store) / name;
  const auto put = [&]() -> Status {
    for (const fs::path& made : {directory(store), path.parent_path()}) {
      if (auto done = files.make_directory(made); !done) return done;
      if (auto synced = files.sync_directory(made.parent_path()); !synced) return synced;
    }
    return publish(files, path, *file);
  };
  // Another host that deletes the job's last record may take the directory away meanwhile.
  for (int again = 0;; ++again)
    if (auto done = put(); done || done.error().kind != ErrorKind::not_found || again == 3) return done;
}

Status remove_record(Files& files, const fs::path& store, const std::string& name) {
  const fs::path path = directory(store) / name;
  auto there = files.list(path.parent_path());
  if (!there) return there.error();
  for (const std::string& file : *there)
    if (file == path.filename() || file == path.filename().string() + std::string(kTemporarySuffix))
      if (auto removed = files.remove(path.parent_path() / file); !removed) return removed;
  if (auto synced = files.sync_directory(path.parent_path()); !synced && synced.error().kind != ErrorKind::not_found)
    return synced;
  return files.remove_directory(path.parent_path());
}

Result<CheckpointRecordFile> read_record(Files& files, const fs::path& store, const std::string& name,
                                         const SiteKeys& keys) {
  auto file = files.open(directory(store) / name);
  if (!file) return file.error();
  if ((*file)->size() > kMaxFileBytes) return damaged(name, "it is longer than a record can be");
  auto bytes = (*file)->read(0, (*file)->size());
  if (!bytes) return bytes.error();
  return open_record(name, *bytes, keys);
}

Result<std::vector<std::string>> record_names(Files& files, const fs::path& store) {
  auto jobs = files.list(directory(store));
  if (!jobs) return jobs.error();
  std::vector<std::string> names;
  for (const std::string& job : *jobs) {
    auto epochs = files.list(directory(store) / job);
    if (!epochs) return epochs.error();
    for (const std::string& epoch : *epochs)
      if (!epoch.ends_with(kTemporarySuffix)) names.push_back(job + "/" + epoch);
  }
  std::ranges::sort(names);
  return names;
}

}  // namespace stillpoint::node
