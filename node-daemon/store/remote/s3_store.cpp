#include "node-daemon/store/remote/s3_store.h"

#include <algorithm>

#include "node-daemon/store/remote/blob_name.h"
#include "node-daemon/store/remote/memory_blob.h"
#include "node-daemon/store/remote/s3_upload.h"
#include "node-daemon/store/seal.h"

namespace stillpoint::node {
namespace {

// An object as it was when it was opened: replaced meanwhile, it cannot be read any more.
class S3File final : public ReadableFile {
 public:
  S3File(std::shared_ptr<S3Client> client, std::string key, std::uint64_t size, std::string etag)
      : client_(std::move(client)), key_(std::move(key)), size_(size), etag_(std::move(etag)) {}

  Result<std::string> read(std::uint64_t offset, std::size_t count) const override {
    if (offset > size_ || count > size_ - offset) return damaged("it ends too early");
    if (count == 0) return std::string();
    S3Request request;
    request.step = "read";
    request.key = key_;
    request.range = {offset, count};
    request.body_limit = count;
    if (!etag_.empty()) request.headers = {"If-Match: " + etag_};
    auto response = client_->run(request);
    if (!response) return response.error();
    if (response->body.size() != count || !is_range(*response, offset, count))
      return damaged("the server sent " + std::to_string(response->body.size()) + " bytes instead of " +
                     std::to_string(count) + " from " + std::to_string(offset));
    return std::move(response->body);
  }
  std::uint64_t size() const override { return size_; }

 private:
  bool is_range(const HttpResponse& response, std::uint64_t offset, std::size_t count) const {
    if (response.status == 200) return count == size_;
    const std::string wanted = "bytes " + std::to_string(offset) + "-" + std::to_string(offset + count - 1) + "/";
    return response.header("content-range").starts_with(wanted);
  }
  Error damaged(std::string cause) const {
    return {ErrorKind::damaged, "read", client_->object(key_), std::move(cause)};
  }

  const std::shared_ptr<S3Client> client_;
  const std::string key_;
  const std::uint64_t size_;
  const std::string etag_;
};

S3Request request_for(const char* step, HttpMethod method, std::string key) {
  S3Request request;
  request.step = step;
  request.method = method;
  request.key = std::move(key);
  return request;
}

// What the name begins with in the listing of a directory; nothing if no store of ours made it.
std::string name_below(std::string_view key, std::string_view prefix) {
  if (!key.starts_with(prefix)) return {};
  key.remove_prefix(prefix.size());
  if (key.ends_with('/')) key.remove_suffix(1);
  return check_blob_name("", key) && key.find('/') == key.npos ? std::string(key) : std::string();
}

}  // namespace

Result<std::unique_ptr<S3Store>> S3Store::make(const S3Settings& settings) {
  auto client = S3Client::make(settings);
  if (!client) return client.error();
  return std::unique_ptr<S3Store>(new S3Store(std::move(*client)));
}

Status S3Store::put(const std::string& name, const ReadableFile& content, std::stop_token stop) {
  if (auto good = check_blob_name("store", name); !good) return good;
  const std::string key = client_->key_of(name);
  if (content.size() <= client_->settings().part_bytes) return put_whole(key, content, std::move(stop));
  return S3Upload(*client_, key, content, std::move(stop)).run();
}

Status S3Store::put_whole(const std::string& key, const ReadableFile& content, std::stop_token stop) {
  S3Request request = request_for("store", HttpMethod::put, key);
  request.headers = {"Content-Type: application/octet-stream"};
  request.body = &content;
  request.body_range = {0, content.size()};
  request.stop = std::move(stop);
  auto response = client_->run(request);
  if (!response) return response.error();
  return {};
}

// The answer to HEAD has no words: when it is no, GET is asked for them.
Result<std::shared_ptr<const ReadableFile>> S3Store::open(const std::string& name) {
  if (auto good = check_blob_name("open", name); !good) return good.error();
  const std::string key = client_->key_of(name);
  auto head = client_->ask(request_for("open", HttpMethod::head, key));
  if (!head) return head.error();
  if (head->failure) {
    S3Request words = request_for("open", HttpMethod::get, key);
    words.range = {0, 1};
    auto response = client_->run(words);
    return response ? *head->failure : response.error();
  }
  const auto size = head->response.content_length();
  if (!size) return Error{ErrorKind::damaged, "open", client_->object(key), "the server does not say how long it is"};
  return std::make_shared<S3File>(client_, key, *size, head->response.header("etag"));
}

std::string S3Store::key_prefix(const std::string& directory) const {
  const std::string key = directory.empty() ? client_->settings().prefix : client_->key_of(directory);
  return key.empty() ? key : key + "/";
}

Result<std::vector<std::string>> S3Store::list(const std::string& directory) {
  if (auto good = check_blob_directory("list", directory); !good) return good.error();
  const std::string prefix = key_prefix(directory);
  std::vector<std::string> names;
  S3Request request = request_for("list", HttpMethod::get, "");
  request.query = {{"list-type", "2"}, {"delimiter", "/"}, {"prefix", prefix}};
  for (;;) {
    auto response = client_->run(request);
    if (!response) return response.error();
    auto listing = parse_s3_listing(response->body);
    if (!listing) return Error{listing.error().kind, "list", client_->object(prefix), listing.error().cause};
    for (const auto* found : {&listing->keys, &listing->prefixes})
      for (const std::string& key : *found)
        if (std::string name = name_below(key, prefix); !name.empty()) names.push_back(std::move(name));
    if (listing->next.empty()) break;
    request.query["continuation-token"] = listing->next;
  }
  std::ranges::sort(names);
  names.erase(std::ranges::unique(names).begin(), names.end());
  return names;
}

Status S3Store::remove(const std::string& name) {
  if (auto good = check_blob_name("delete", name); !good) return good;
  auto answer = client_->ask(request_for("delete", HttpMethod::remove, client_->key_of(name)));
  if (!answer) return answer.error();
  if (answer->failure && answer->failure->kind != ErrorKind::not_found) return *answer->failure;
  return {};
}

Status S3Store::check() {
  auto id = random_id();
  if (!id) return id.error();
  const std::string name = "probe-" + hex(as_text(*id));
  const MemoryBlob content("stillpoint was here: " + name);
  if (auto put = this->put(name, content, {}); !put) return put;
  const auto read = [&]() -> Status {
    auto names = list("");
    if (!names) return names.error();
    auto file = open(name);
    if (!file) return file.error();
    auto bytes = (*file)->read(0, (*file)->size());
    if (!bytes) return bytes.error();
    if (*bytes == content.bytes() && std::ranges::binary_search(*names, name)) return {};
    return Error{ErrorKind::damaged, "check", where(), "what was just stored does not come back or is not listed"};
  }();
  auto removed = remove(name);
  return read ? removed : read;
}

Result<std::size_t> S3Store::end_unfinished(const std::string& directory) {
  if (auto good = check_blob_directory("look for unfinished uploads", directory); !good) return good.error();
  return end_uploads(*client_, key_prefix(directory));
}

}  // namespace stillpoint::node
