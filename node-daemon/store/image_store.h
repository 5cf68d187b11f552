// Where checkpoint images lie. Behind this interface are the chunk stores of all hosts, in a directory that every host
// of the site reaches (chunk_image_store.h).
//
// Threads: blocking calls, from workers; any number side by side. A writer or reader belongs to one thread.
#pragma once

#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "common/ids.h"
#include "common/result.h"
#include "gang.pb.h"
#include "host.pb.h"
#include "node-daemon/store/image_check.h"

namespace stillpoint::node {

struct ImageName {
  JobId job;
  Epoch epoch;
  GuestIndex guest;
  enum class Part { memory, disk } part = Part::memory;
};

// Takes an image's raw bytes as they come. Nothing is visible before commit(), nothing is left when it is destroyed
// without it.
class ImageWriter {
 public:
  virtual ~ImageWriter() = default;
  // Waits when the store is slower than the writer, until begin()'s `stop` is requested at the latest. An error stays:
  // every later call gives it again.
  virtual Status write(std::string_view raw) = 0;
  // Durable and visible under its name when it returns; once, last.
  virtual Result<wire::ImageFile> commit() = 0;
};

// Gives an image's raw bytes, each checked before it is given. The image as a whole counts only after its end was read
// without an error.
class ImageReader {
 public:
  virtual ~ImageReader() = default;
  virtual Result<std::string> read() = 0;  // empty: the end
};

class ImageStore {
 public:
  virtual ~ImageStore() = default;
  // stop: may be requested from any thread; the writer's calls under way then end with an error of kind refused.
  virtual Result<std::unique_ptr<ImageWriter>> begin(const ImageName& name, std::stop_token stop) = 0;
  // Makes a guest's committed images as durable as asked, and notes in them where they lie now. An error says of every
  // partner why it does not keep them. stop: as begin()'s.
  virtual Status replicate(wire::GuestImage& image, const wire::Durability& asked, std::stop_token stop) = 0;
  // From where the file says that it is, this host first, then those peers that have it. An image that is not what the
  // catalog recorded, or lacks something, is an error of kind damaged; so is a read that meets damage later and finds
  // no other place to go on from.
  virtual Result<std::unique_ptr<ImageReader>> open(const wire::ImageFile& file,
                                                    const std::vector<wire::StorePeer>& peers) = 0;
  // Reads back what this host's directory has of an image, all that the image needs, and compares every page with its
  // fingerprint. What is damaged or gone, where this host may write, is put right from the other places that the file
  // names, peers among them. An error: it could not be checked, so nothing is known; transient when it is not kept
  // here, or when `stop` was requested. Problems are transient, too, while a place that may have it whole cannot be
  // asked.
  virtual Result<ImageCheck> verify(const wire::ImageFile& file, const std::vector<wire::StorePeer>& peers,
                                    const std::stop_token& stop) = 0;
  // The same of its copy in the site's S3 store. Only who stored the image puts that right: from what is here, or at
  // those peers that have it.
  virtual Result<ImageCheck> verify_in_object_store(const wire::ImageFile& file,
                                                    const std::vector<wire::StorePeer>& peers,
                                                    const std::stop_token& stop) = 0;
  // Images that are not there are deleted already. own: those that this host took; all_hosts: those of every host, and
  // copies. What the deletion leaves without use is freed before it returns, where that is this host's to do.
  // In the site's S3 store, too; there also what hosts stored that are lost.
  enum class Reach { own, all_hosts };
  virtual Status remove(const JobId& job, const std::vector<Epoch>& epochs, Reach reach,
                        const std::vector<HostName>& lost_hosts) = 0;
  // Frees what another host's deletions left without use. To be called at the start, and now and then.
  virtual void tidy() = 0;
  // The same of what this host has in the site's S3 store. May take hours where uploads are slow; stop_freeing() ends
  // it.
  virtual void tidy_object_store() = 0;
  // For good: what frees space ends soon, and later calls free none. The next process does it.
  virtual void stop_freeing() = 0;
  // Of the file system that the images go to.
  virtual Result<std::uint64_t> free_bytes() = 0;
  virtual Result<std::uint64_t> total_bytes() = 0;
  // What this host's own store takes; from memory, nothing is read.
  struct Use {
    std::uint64_t packs = 0, pack_bytes = 0, pages = 0;
  };
  virtual Use use() = 0;
  // Whose images this host keeps, copies for other hosts among them; not what others store in a directory that is
  // shared. By name, nothing of them is read. And the records that are whole.
  virtual Result<wire::HeldImages> held() = 0;
  // In this host's own store, until remove() of that epoch. stop: as begin()'s.
  virtual Status keep_record(const JobId& job, Epoch epoch, const wire::KeepRecord& record, std::stop_token stop) = 0;
  // A page of them: about half a MiB, and `last`, behind which the next one begins, unless it was the end. transient: a
  // file system or the S3 store cannot be asked.
  virtual Result<wire::Records> records(const wire::ReadRecords& ask) = 0;
};

}  // namespace stillpoint::node
