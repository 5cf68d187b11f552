#include "node-daemon/store/site_records.h"

#include <algorithm>
#include <optional>

#include "node-daemon/store/checkpoint_records.h"
#include "node-daemon/store/chunk_store.h"
#include "node-daemon/store/remote/memory_blob.h"
#include "node-daemon/store/remote/remote_files.h"

namespace stillpoint::node {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kRecordsPageBytes = 512u << 10;  // a page ends with the record that passes it

}  // namespace

Status SiteRecords::keep(const JobId& job, Epoch epoch, const wire::KeepRecord& record,
                         const std::shared_ptr<BlobStore>& object_store, std::stop_token stop) const {
  const std::string name = record_name(job, epoch);
  if (name.empty()) return Error{ErrorKind::refused, "keep record", job.value, "not a job id"};
  const CheckpointRecordFile file{record.revision(), record.record()};
  const auto keep_here = [&](std::uint32_t revision) {
    return node::keep_record(system_files(), hosts_ / host_.value, name, {revision, record.record()}, keys_);
  };
  if (!record.object_store()) return keep_here(record.revision());
  // Until it is in both places it is said to be the one before: so it is asked for once more.
  if (auto kept = keep_here(record.revision() - 1); !kept) return kept;
  if (!object_store) return Error{ErrorKind::refused, "keep record", name, "this host's daemon knows of no S3 store"};
  auto sealed = seal_record(name, file, keys_.active());
  if (!sealed) return sealed.error();
  const MemoryBlob content(std::move(*sealed));
  if (auto put = object_store->put(host_.value + "/records/" + name, content, std::move(stop)); !put) return put;
  return keep_here(record.revision());
}

// "h1/j7/e12", in order.
Result<std::vector<std::string>> SiteRecords::names(Files& files, const fs::path& hosts, bool of_all_hosts) const {
  std::vector<std::string> owners{host_.value};
  if (of_all_hosts) {
    auto all = files.list(hosts);
    if (!all) return all;
    owners = std::move(*all);
  }
  std::vector<std::string> found;
  for (const std::string& owner : owners) {
    if (!is_host_directory(owner)) continue;
    auto theirs = record_names(files, hosts / owner);
    if (!theirs) return theirs;
    for (const std::string& name : *theirs) found.push_back(owner + "/" + name);
  }
  std::ranges::sort(found);
  return found;
}

Result<wire::Records> SiteRecords::page(const wire::ReadRecords& ask,
                                        const std::shared_ptr<BlobStore>& object_store) const {
  const bool remote = ask.where() == wire::ReadRecords::OBJECT_STORE;
  if (remote && !object_store)
    return Error{ErrorKind::refused, "read records", "", "this host's daemon knows of no S3 store"};
  std::optional<RemoteFiles> there;
  if (remote) there.emplace(object_store, memory_);
  Files& files = remote ? static_cast<Files&>(*there) : system_files();
  const fs::path hosts = remote ? fs::path() : hosts_;
  const bool all = remote || (ask.where() == wire::ReadRecords::DIRECTORY && !is_own_);
  auto all_names = names(files, hosts, all);
  if (!all_names) return all_names.error();
  wire::Records answer;
  for (auto name = std::ranges::upper_bound(*all_names, ask.after()); name != all_names->end(); ++name) {
    if (answer.ByteSizeLong() >= kRecordsPageBytes) return answer;  // it names the last one
    const std::size_t slash = name->find('/');
    auto record = read_record(files, hosts / name->substr(0, slash), name->substr(slash + 1), keys_);
    answer.set_last(*name);
    if (record) answer.add_records(std::move(record->content));
    else if (record.error().kind == ErrorKind::damaged) answer.add_damaged(*name + ": " + record.error().cause);
    else if (record.error().kind != ErrorKind::not_found) return record.error();  // deleted meanwhile
  }
  answer.clear_last();
  return answer;
}

}  // namespace stillpoint::node
