// A site's hosts, each with a directory of its own, and its S3 store: a real server, or a directory in its place. For
// tests.
#pragma once

#include <doctest/doctest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <optional>

#include "node-daemon/store/chunk_image_store.h"
#include "node-daemon/store/remote/local_blobs.h"
#include "node-daemon/store/remote/s3_store.h"
#include "node-daemon/store/remote/s3_test_server.h"
#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node::test {

namespace fs = std::filesystem;

// One for all tests: it takes a second to start, and enters namespaces of its own.
inline S3TestServer& server() {
  static S3TestServer one;
  return one;
}

struct Site {
  Site() {
    char name[] = "/tmp/stillpoint-site-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
    auto made = S3Store::make(server().settings());
    REQUIRE_MESSAGE(made.has_value(), made.error());
    s3 = std::move(*made);
  }
  ~Site() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  Site(const Site&) = delete;
  Site& operator=(const Site&) = delete;

  std::unique_ptr<SiteImageStore> host(const std::string& name) const { return host(name, s3); }
  std::unique_ptr<SiteImageStore> host(const std::string& name, std::shared_ptr<BlobStore> object_store) const {
    ImageStoreOptions options;
    options.own = true;
    options.object_store = std::move(object_store);
    options.connect = [path = path](const wire::StorePeer& peer) -> std::shared_ptr<BlobStore> {
      auto at = LocalBlobs::make(system_files(), path / peer.host() / "hosts", "host " + peer.host());
      REQUIRE_MESSAGE(at.has_value(), at.error());
      return std::move(*at);
    };
    auto store = open_chunk_image_store(path / name, {name}, path / "store.keys", std::move(options));
    REQUIRE_MESSAGE(store.has_value(), store.error());
    return std::move(*store);
  }
  // With a directory that all hosts share.
  std::unique_ptr<SiteImageStore> shared(const std::string& name) const {
    ImageStoreOptions options;
    options.object_store = s3;
    auto store = open_chunk_image_store(path / "shared", {name}, path / "store.keys", std::move(options));
    REQUIRE_MESSAGE(store.has_value(), store.error());
    return std::move(*store);
  }
  std::size_t packs() const { return s3->list("h1/packs").value().size(); }

  fs::path path;
  std::shared_ptr<BlobStore> s3;
};

inline wire::ImageFile put(ImageStore& store, const ImageName& name, const std::string& raw) {
  auto writer = store.begin(name, {});
  REQUIRE_MESSAGE(writer.has_value(), writer.error());
  REQUIRE((*writer)->write(raw).has_value());
  auto file = (*writer)->commit();
  REQUIRE_MESSAGE(file.has_value(), file.error());
  return *file;
}

inline wire::GuestImage store_both(ImageStore& store, std::uint64_t epoch, const std::string& memory,
                                   const std::string& disk) {
  wire::GuestImage image;
  *image.mutable_memory() = put(store, {{"j7"}, {epoch}, {0}, ImageName::Part::memory}, memory);
  *image.mutable_disk() = put(store, {{"j7"}, {epoch}, {0}, ImageName::Part::disk}, disk);
  return image;
}

inline Status replicate(ImageStore& store, wire::GuestImage& image) {
  wire::Durability asked;
  asked.set_level(wire::Durability::SITE);
  return store.replicate(image, asked, {});
}

inline wire::GuestImage take(ImageStore& store, std::uint64_t epoch, const std::string& memory,
                             const std::string& disk) {
  wire::GuestImage image = store_both(store, epoch, memory, disk);
  const Status done = replicate(store, image);
  REQUIRE_MESSAGE(done.has_value(), done.error());
  return image;
}

inline Result<std::string> get(ImageStore& store, const wire::ImageFile& file) {
  auto reader = store.open(file, {});
  if (!reader) return reader.error();
  std::string raw;
  for (;;) {
    auto piece = (*reader)->read();
    if (!piece) return piece.error();
    if (piece->empty()) return raw;
    raw += *piece;
  }
}

// Ends its process at the n-th step of changing something: before and after each file, and at each read of one that is
// put.
class DyingBlobs final : public BlobStore {
 public:
  DyingBlobs(std::shared_ptr<BlobStore> blobs, std::uint64_t steps) : blobs_(std::move(blobs)), left_(steps) {}
  const std::string& where() const override { return blobs_->where(); }
  Status put(const std::string& name, const ReadableFile& content, std::stop_token stop) override {
    step();
    const Status done = blobs_->put(name, Watched(content, *this), stop);
    step();
    return done;
  }
  Result<std::shared_ptr<const ReadableFile>> open(const std::string& name) override { return blobs_->open(name); }
  Result<std::vector<std::string>> list(const std::string& directory) override { return blobs_->list(directory); }
  Status remove(const std::string& name) override {
    step();
    const Status done = blobs_->remove(name);
    step();
    return done;
  }

 private:
  struct Watched final : ReadableFile {
    Watched(const ReadableFile& content, DyingBlobs& blobs) : content_(content), blobs_(blobs) {}
    Result<std::string> read(std::uint64_t offset, std::size_t count) const override {
      blobs_.step();
      return content_.read(offset, count);
    }
    std::uint64_t size() const override { return content_.size(); }
    const ReadableFile& content_;
    DyingBlobs& blobs_;
  };
  void step() {
    if (left_-- > 0) return;
    ::kill(::getpid(), SIGKILL);
    ::pause();
  }
  const std::shared_ptr<BlobStore> blobs_;
  std::uint64_t left_;
};

// Many requests: to a directory, in the S3 store's place.
inline std::shared_ptr<BlobStore> fast_store(const Site& site) {
  auto made = LocalBlobs::make(system_files(), site.path / "s3", "a directory");
  REQUIRE_MESSAGE(made.has_value(), made.error());
  return std::move(*made);
}

// One request fails, as when the place is not reached for longer than anybody tries.
class FailingBlobs final : public BlobStore {
 public:
  explicit FailingBlobs(std::shared_ptr<BlobStore> blobs) : blobs_(std::move(blobs)) {}
  // The n-th request from now on; 0: the next.
  void fail_at(std::uint64_t n) { left_ = n, failed_ = false; }
  void fail_no_more() { left_.reset(); }
  bool failed() const { return failed_; }

  const std::string& where() const override { return blobs_->where(); }
  Status put(const std::string& name, const ReadableFile& content, std::stop_token stop) override {
    if (auto refused = request(name); !refused) return refused;
    return blobs_->put(name, content, stop);
  }
  Result<std::shared_ptr<const ReadableFile>> open(const std::string& name) override {
    if (auto refused = request(name); !refused) return refused.error();
    return blobs_->open(name);
  }
  Result<std::vector<std::string>> list(const std::string& directory) override {
    if (auto refused = request(directory); !refused) return refused.error();
    return blobs_->list(directory);
  }
  Status remove(const std::string& name) override {
    if (auto refused = request(name); !refused) return refused;
    return blobs_->remove(name);
  }

 private:
  Status request(const std::string& name) {
    if (!left_ || (*left_)-- > 0) return {};
    left_.reset();
    failed_ = true;
    return Error{ErrorKind::transient, "ask", name, "no answer"};
  }
  const std::shared_ptr<BlobStore> blobs_;
  std::optional<std::uint64_t> left_;
  bool failed_ = false;
};

// Whether h1's process was killed at that step while it did something; otherwise it came to its end.
inline bool killed_while(const Site& site, std::uint64_t steps, const std::function<bool(SiteImageStore&)>& work) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const auto h1 = site.host("h1", std::make_shared<DyingBlobs>(site.s3, steps));
    ::_exit(work(*h1) ? 0 : 4);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) return true;
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) == 0);
  return false;
}

}  // namespace stillpoint::node::test
