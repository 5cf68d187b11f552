// The records of checkpoints (checkpoint_records.h) of a whole site: kept in this host's store and, where asked for, in
// the S3 store; read back by pages from here, from a directory that all hosts share, or from the S3 store.
//
// Threads: blocking; any, but one at a time for one checkpoint.
#pragma once

#include <filesystem>
#include <memory>
#include <stop_token>
#include <string>

#include "node-daemon/store/image_store.h"
#include "node-daemon/store/memory_pool.h"
#include "node-daemon/store/remote/blob_store.h"
#include "node-daemon/store/site_key.h"

namespace stillpoint::node {

class SiteRecords {
 public:
  // hosts: the directory of all hosts' stores. is_own: no other host's is there. keys are borrowed.
  SiteRecords(std::filesystem::path hosts, const HostName& host, bool is_own, const SiteKeys& keys,
              std::shared_ptr<MemoryPool> memory)
      : hosts_(std::move(hosts)), host_(host), is_own_(is_own), keys_(keys), memory_(std::move(memory)) {}

  // As ImageStore::keep_record() and records() say. object_store: null without one.
  Status keep(const JobId& job, Epoch epoch, const wire::KeepRecord& record,
              const std::shared_ptr<BlobStore>& object_store, std::stop_token stop) const;
  Result<wire::Records> page(const wire::ReadRecords& ask, const std::shared_ptr<BlobStore>& object_store) const;

 private:
  Result<std::vector<std::string>> names(Files& files, const std::filesystem::path& hosts, bool of_all_hosts) const;

  const std::filesystem::path hosts_;
  const HostName host_;
  const bool is_own_;
  const SiteKeys& keys_;
  const std::shared_ptr<MemoryPool> memory_;
};

}  // namespace stillpoint::node
