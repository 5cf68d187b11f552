#include "node-daemon/peer/peer_blobs.h"

#include <condition_variable>
#include <mutex>
#include <sstream>

#include "common/net/endpoint.h"

namespace stillpoint::node {
namespace {

constexpr int kAttempts = 3;
constexpr std::chrono::milliseconds kPause{200};  // before the second attempt; four times as long before the next
constexpr std::size_t kListLimit = 64u << 20, kReadLimit = 256u << 20;

ErrorKind kind_of(long status) {
  switch (status) {
    case 403:
    case 405:
    case 411: return ErrorKind::refused;
    case 404: return ErrorKind::not_found;
    case 409:
    case 416: return ErrorKind::damaged;
    case 503: return ErrorKind::transient;
    case 507: return ErrorKind::storage_full;
    default: return ErrorKind::permanent;
  }
}

Error failure_of(const std::string& step, const std::string& where, const HttpResponse& response) {
  std::string words = response.body.substr(0, response.body.find('\n'));
  if (words.empty()) words = "it answered with HTTP status " + std::to_string(response.status);
  return {kind_of(response.status), step, where, std::move(words)};
}

// Until the time has passed or the stop is requested.
void pause(std::chrono::milliseconds time, const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any changed;
  std::unique_lock lock(mutex);
  changed.wait_for(lock, stop, time, [] { return false; });
}

struct Peer {
  Peer(const wire::StorePeer& peer, HttpSettings settings)
      : host(peer.host()), where("host " + peer.host()), client(std::move(settings)) {
    const auto split = net::split_endpoint(peer.endpoint());
    url = "https://" + host + ":" + (split ? split->port : "0") + "/";
  }

  Result<HttpResponse> run(const HttpRequest& request) const {
    for (int attempt = 1;; ++attempt) {
      auto response = client.run(request);
      const bool again = response ? response->status == 503 : response.error().kind == ErrorKind::transient;
      if (!again || attempt == kAttempts || request.stop.stop_requested()) return response;
      pause(kPause * (attempt == 1 ? 1 : 4), request.stop);
    }
  }

  const std::string host, where;
  std::string url;
  mutable HttpClient client;  // itself safe for any number of threads
};

class RemoteFile final : public ReadableFile {
 public:
  RemoteFile(std::shared_ptr<const Peer> peer, std::string name, std::uint64_t size)
      : peer_(std::move(peer)), name_(std::move(name)), size_(size) {}

  Result<std::string> read(std::uint64_t offset, std::size_t count) const override {
    if (count == 0) return std::string();
    HttpRequest request;
    request.url = peer_->url + name_;
    request.range = {offset, count};
    request.body_limit = kReadLimit;
    auto response = peer_->run(request);
    if (!response) return response.error();
    if (response->status != 206) return failure_of("read " + name_, peer_->where, *response);
    if (response->body.size() != count)
      return Error{ErrorKind::damaged, "read " + name_, peer_->where, "it gave another number of bytes than asked"};
    return std::move(response->body);
  }
  std::uint64_t size() const override { return size_; }

 private:
  const std::shared_ptr<const Peer> peer_;
  const std::string name_;
  const std::uint64_t size_;
};

class PeerBlobs final : public BlobStore {
 public:
  explicit PeerBlobs(std::shared_ptr<const Peer> peer) : peer_(std::move(peer)) {}

  const std::string& where() const override { return peer_->where; }

  Status put(const std::string& name, const ReadableFile& content, std::stop_token stop) override {
    HttpRequest request;
    request.method = HttpMethod::put;
    request.url = peer_->url + name;
    request.headers = {"Expect: 100-continue"};  // a refusal comes before the bytes have gone
    request.body = &content;
    request.body_range = {0, content.size()};
    request.stop = std::move(stop);
    auto response = peer_->run(request);
    if (!response) return response.error();
    if (response->status != 201) return failure_of("copy " + name, peer_->where, *response);
    return {};
  }

  Result<std::shared_ptr<const ReadableFile>> open(const std::string& name) override {
    HttpRequest request;
    request.method = HttpMethod::head;
    request.url = peer_->url + name;
    auto response = peer_->run(request);
    if (!response) return response.error();
    const auto size = response->content_length();
    if (response->status != 200 || !size) return failure_of("open " + name, peer_->where, *response);
    return std::make_shared<const RemoteFile>(peer_, name, *size);
  }

  Result<std::vector<std::string>> list(const std::string& directory) override {
    HttpRequest request;
    request.url = peer_->url + directory + "/";
    request.body_limit = kListLimit;
    auto response = peer_->run(request);
    if (!response) return response.error();
    if (response->status != 200) return failure_of("list " + directory, peer_->where, *response);
    std::vector<std::string> names;
    std::istringstream lines(response->body);
    for (std::string line; std::getline(lines, line);) names.push_back(line);
    return names;
  }

  // What lies there is that host's to delete.
  Status remove(const std::string& name) override {
    return Error{ErrorKind::refused, "delete " + name, peer_->where, "only that host deletes what it keeps"};
  }

 private:
  const std::shared_ptr<const Peer> peer_;
};

}  // namespace

std::shared_ptr<BlobStore> connect_peer(const wire::StorePeer& peer, const SiteIdentity& identity,
                                        std::shared_ptr<UploadCaps> caps) {
  HttpSettings settings;
  settings.identity = identity;
  settings.connect_to = peer.endpoint();
  settings.caps = std::move(caps);
  return std::make_shared<PeerBlobs>(std::make_shared<const Peer>(peer, std::move(settings)));
}

}  // namespace stillpoint::node
