#include "node-daemon/store/remote/s3_upload.h"

#include <algorithm>

#include "node-daemon/store/seal.h"

namespace stillpoint::node {
namespace {

constexpr const char* kStep = "store";
constexpr const char* kMark = "x-amz-meta-stillpoint-upload";
constexpr int kPatience = 10;                // stall timeouts, while the server puts parts together
constexpr std::chrono::seconds kParting{2};  // stall timeout of the last word about an upload that failed
constexpr std::uint64_t kMostParts = 1000;   // S3 takes 10,000, Swift's default is 1000

S3Request ending(const std::string& key, const std::string& upload) {
  S3Request request;
  request.step = "end upload";
  request.method = HttpMethod::remove;
  request.key = key;
  request.query = {{"uploadId", upload}};
  return request;
}

}  // namespace

S3Upload::S3Upload(S3Client& client, std::string key, const ReadableFile& content, std::stop_token stop)
    : client_(client), key_(std::move(key)), content_(content), stop_(std::move(stop)) {}

Status S3Upload::run() {
  if (auto created = create(); !created) return created;
  auto sent = send_parts();
  if (sent) sent = complete();
  if (!sent) abort();
  return sent;
}

S3Request S3Upload::request(HttpMethod method) const {
  S3Request request;
  request.step = kStep;
  request.method = method;
  request.key = key_;
  request.stop = stop_;
  if (!upload_.empty()) request.query = {{"uploadId", upload_}};
  return request;
}

Status S3Upload::create() {
  auto mark = random_id();
  if (!mark) return mark.error();
  mark_ = hex(as_text(*mark));
  S3Request creation = request(HttpMethod::post);
  creation.query = {{"uploads", ""}};
  creation.headers = {"Content-Type: application/octet-stream", kMark + (": " + mark_)};
  auto answer = client_.run(creation);
  if (!answer) return answer.error();
  auto id = parse_s3_upload_id(answer->body);
  if (!id) return Error{id.error().kind, kStep, client_.object(key_), id.error().cause};
  upload_ = std::move(*id);
  return {};
}

std::uint64_t S3Upload::part_bytes() const {
  const std::uint64_t least = (content_.size() + kMostParts - 1) / kMostParts;
  return std::max(client_.settings().part_bytes, least);
}

Status S3Upload::send_parts() {
  const std::uint64_t size = content_.size(), part = part_bytes();
  for (std::uint64_t offset = 0; offset < size; offset += part) {
    S3Request sending = request(HttpMethod::put);
    sending.query["partNumber"] = std::to_string(etags_.size() + 1);
    sending.body = &content_;
    sending.body_range = {offset, std::min(part, size - offset)};
    auto answer = client_.run(sending);
    if (!answer) return answer.error();
    etags_.push_back(answer->header("etag"));
    if (etags_.back().empty()) return Error{ErrorKind::damaged, kStep, client_.object(key_), "a part has no ETag"};
  }
  return {};
}

// When the answer to an attempt was lost, the next one may be told that there is no such upload any more.
Status S3Upload::complete() {
  S3Request completion = request(HttpMethod::post);
  completion.headers = {"Content-Type: application/xml"};
  completion.text = s3_completion(etags_);
  completion.stall_timeout = client_.settings().stall_timeout * kPatience;
  auto answer = client_.ask(completion);
  if (!answer) return answer.error();
  if (!answer->failure) return {};
  if (answer->code == "NoSuchUpload")
    if (auto there = is_there(); there && *there) return {};
  return *answer->failure;
}

Result<bool> S3Upload::is_there() {
  S3Request look = request(HttpMethod::head);
  look.query.clear();
  auto answer = client_.run(look);
  if (!answer) return answer.error();
  return answer->header(kMark) == mark_ && answer->content_length() == content_.size();
}

void S3Upload::abort() {
  S3Request end = ending(key_, upload_);
  // What is left is ended at the daemon's next start.
  end.once = true;
  end.stall_timeout = kParting;
  (void)client_.ask(end);
}

Result<std::size_t> end_uploads(S3Client& client, const std::string& prefix) {
  std::size_t ended = 0;
  S3Request look;
  look.step = "look for unfinished uploads";
  look.query = {{"uploads", ""}, {"prefix", prefix}};
  for (;;) {
    auto answer = client.run(look);
    if (!answer) return answer.error();
    auto found = parse_s3_uploads(answer->body);
    if (!found) return Error{found.error().kind, look.step, client.object(""), found.error().cause};
    for (const auto& [key, upload] : found->uploads) {
      if (!key.starts_with(prefix)) continue;
      auto done = client.ask(ending(key, upload));
      if (!done) return done.error();
      if (done->failure && done->failure->kind != ErrorKind::not_found) return *done->failure;
      ++ended;
    }
    if (found->next_key.empty()) return ended;
    look.query["key-marker"] = found->next_key;
    look.query["upload-id-marker"] = found->next_upload;
  }
}

}  // namespace stillpoint::node
