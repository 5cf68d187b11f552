// Records of committed checkpoints, beside their images; what a lost catalog is made again from. What is in one is the
// coordinator's to know (CheckpointRecord in host.proto). docs/store-format.md specifies the files:
//
//   DIR/records/JOB/eEPOCH         of a store: sealed under the site's key, published like everything else
//
// Blocking. A file is written by its host alone, and deleted by any that reaches it; any thread, but one at a time for
// one checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/ids.h"
#include "node-daemon/store/files.h"
#include "node-daemon/store/site_key.h"

namespace stillpoint::node {

struct CheckpointRecordFile {
  std::uint32_t revision = 0;  // a newer record of the same checkpoint has a higher one
  std::string content;
};

inline constexpr std::size_t kMaxRecordBytes = 3u << 20;  // it comes and goes in one message

// "j7/e12"; empty where that would be no plain name.
std::string record_name(const JobId& job, Epoch epoch);

// The file's content, and back. name: which record it is, so that none can stand in for another. damaged if a single
// bit is another.
Result<std::string> seal_record(const std::string& name, const CheckpointRecordFile& record, const SiteKey& key);
Result<CheckpointRecordFile> open_record(const std::string& name, std::string_view file, const SiteKeys& keys);

// Of one store; `store` is its directory, in a file system or a place for copies. Files are borrowed.
// Durable when it returns. One of the same or a higher revision stays.
Status keep_record(Files& files, const std::filesystem::path& store, const std::string& name,
                   const CheckpointRecordFile& record, const SiteKeys& keys);
// What is not there is removed already.
Status remove_record(Files& files, const std::filesystem::path& store, const std::string& name);
Result<CheckpointRecordFile> read_record(Files& files, const std::filesystem::path& store, const std::string& name,
                                         const SiteKeys& keys);
// In order.
Result<std::vector<std::string>> record_names(Files& files, const std::filesystem::path& store);

}  // namespace stillpoint::node
