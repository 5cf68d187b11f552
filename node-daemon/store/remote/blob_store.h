// Files of chunk stores in another place: on a partner host, in an S3 bucket. What is put there is whole and durable or
// not there at all, and never changes. Names are relative, plain names between slashes: "h1/packs/ID.pack",
// "h1/images/j7/e12/guest-0.ram".
//
// Errors: transient where another attempt may help and the implementation's own have failed; refused for wrong
// credentials; storage_full; not_found. They say where and what to do.
// Threads: any number of calls side by side; they block. A file that open() gave may outlive the store.
#pragma once

#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "node-daemon/store/files.h"

namespace stillpoint::node {

class BlobStore {
 public:
  virtual ~BlobStore() = default;
  // For people: "host h3", "s3://checkpoints/site-a".
  virtual const std::string& where() const = 0;
  // Replaces what was there by that name. stop: may be requested from any thread; the call then ends soon, with an
  // error of kind refused.
  virtual Status put(const std::string& name, const ReadableFile& content, std::stop_token stop) = 0;
  // Its read() asks the other side each time: read much at once; not_found: it was replaced. not_found: there is none.
  virtual Result<std::shared_ptr<const ReadableFile>> open(const std::string& name) = 0;
  // What is directly below a directory, in order: files and directories, by their names there. None: empty.
  virtual Result<std::vector<std::string>> list(const std::string& directory) = 0;
  virtual Status remove(const std::string& name) = 0;  // what is not there is removed already
};

}  // namespace stillpoint::node
