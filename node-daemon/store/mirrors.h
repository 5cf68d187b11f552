// Partner copies: images of other hosts that this host keeps for them. A mirror is laid out as its owner's store
// (HOSTS/OWNER/packs, HOSTS/OWNER/images) and sealed as it is there; its space is this host's to free, so what is
// compacted here and there need not be the same.
//
// Only where hosts have image directories of their own: in one that all share, OWNER's directory is OWNER's.
//
// Threads: any number of calls side by side; they block. An Incoming belongs to one at a time and must not outlive it.
#pragma once

#include <map>
#include <mutex>

#include "common/fd.h"
#include "common/ids.h"
#include "node-daemon/store/chunk_store.h"

namespace stillpoint::node {

class Mirrors {
 public:
  // files: borrowed. self: this host, which has no mirror here. reserve: bytes of the file system that are left free.
  // memory: of what is read here; null: of each its own. unpack_threads: of what is read here; may be null.
  Mirrors(Files& files, std::filesystem::path hosts, HostName self, SiteKeys keys, std::uint64_t reserve = 0,
          std::shared_ptr<MemoryPool> memory = nullptr, std::shared_ptr<UnpackThreads> unpack_threads = nullptr)
      : files_(files),
        hosts_(std::move(hosts)),
        self_(std::move(self)),
        keys_(std::move(keys)),
        reserve_(reserve),
        memory_(std::move(memory)),
        unpack_threads_(std::move(unpack_threads)) {}
  ~Mirrors();

  // A file that arrives. Nothing is visible before commit(), nothing is left when it is destroyed without it.
  class Incoming {
   public:
    virtual ~Incoming() = default;
    virtual Status write(std::string_view piece) = 0;
    // Durable when it returns; once, last. damaged: it is not what its name says, or an image lacks pages here.
    virtual Status commit() = 0;
  };
  // name: "packs/ID.pack" or "images/j7/e12/guest-0.ram". storage_full if so many bytes have no room.
  Result<std::unique_ptr<Incoming>> begin(const HostName& owner, const std::string& name, std::uint64_t bytes);

  // The owner's copies here, also if none are kept yet.
  Result<std::shared_ptr<ChunkStore>> open(const HostName& owner);
  // The owner's copies here, to be read; not_found if there are none.
  Result<std::shared_ptr<ChunkStore>> find(const HostName& owner);
  // Frees what deleted images of the owner held.
  Result<CollectReport> collect(const HostName& owner, const std::stop_token& stop = {});

 private:
  struct Mirror {
    Fd lock;
    std::shared_ptr<ChunkStore> store;
  };
  class IncomingPack;
  class IncomingImage;

  std::filesystem::path directory(const HostName& owner) const { return hosts_ / owner.value; }

  Files& files_;
  const std::filesystem::path hosts_;
  const HostName self_;
  const SiteKeys keys_;
  const std::uint64_t reserve_;
  const std::shared_ptr<MemoryPool> memory_;
  const std::shared_ptr<UnpackThreads> unpack_threads_;
  std::mutex image_in_memory_;  // lists of images are large: one at a time is checked
  std::mutex mutex_;
  std::map<std::string, Mirror> open_;  // by owner
};

}  // namespace stillpoint::node
