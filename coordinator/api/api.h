// The HTTP+JSON API, version 1, without its transport: finds what a request means, asks the core or the files, answers
// in JSON. docs/protocol.md lists the endpoints. handle() may be called from one thread; answers come on any.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>

#include "coordinator/api/http.h"
#include "coordinator/driver/driver.h"

namespace stillpoint::coordinator {

class Api {
 public:
  struct Limits {
    std::size_t body_bytes = 1u << 20;     // of a JSON document, or a piece of an image
    std::size_t import_bytes = 64u << 20;  // of the description of a checkpoint that is imported
    std::size_t long_polls = 128;          // requests that wait for something to happen
    std::size_t log_bytes = 1u << 20;      // of output in one answer
    std::chrono::milliseconds longest_wait{24 * 3600 * 1000};
  };

  // catalog: its file, for backups.
  Api(Driver& driver, JobFiles& files, Spools& spools, std::filesystem::path catalog, Limits limits)
      : driver_(driver), files_(files), spools_(spools), catalog_(std::move(catalog)), limits_(limits) {}

  // Bytes that the request's body may have.
  std::size_t body_limit(const HttpRequest& request) const {
    return request.method == "POST" && request.path.size() == 2 && request.path[1] == "imports" ? limits_.import_bytes
                                                                                                : limits_.body_bytes;
  }

  // Whether the request's body is a file to be streamed through begin_upload() instead of a document for handle().
  static bool is_upload(const HttpRequest& request);
  struct Incoming {
    std::unique_ptr<Spools::Upload> upload;
    mode_t mode = 0600;
  };
  Result<Incoming> begin_upload(const HttpRequest& request);  // blocking

  void handle(HttpCall call);

  static HttpResponse json_response(const nlohmann::json& document, unsigned status = 200);
  static HttpResponse error_response(const Error& error);                         // status by kind
  static HttpResponse error_response(unsigned status, const std::string& cause);  // of the request itself

 private:
  using Call = std::shared_ptr<HttpCall>;  // shared by the callbacks that answer it
  struct Route {
    const char* method;
    std::vector<std::string_view> pattern;     // "*": any one component, "**": all the rest, at least one
    std::vector<std::string_view> query_keys;  // that it understands
    void (Api::*answer)(const Call& call);
  };
  static std::span<const Route> routes();
  static bool matches(const Route& route, const std::vector<std::string>& path);

  void health(const Call& call);
  void hosts(const Call& call);
  void cordon(const Call& call);
  void store(const Call& call);
  void make_spool(const Call& call);
  void submit(const Call& call);
  void jobs(const Call& call);
  void status(const Call& call);
  void remove(const Call& call);
  void stop(const Call& call);
  void checkpoint(const Call& call);
  void checkpoints(const Call& call);
  void restart(const Call& call);
  void verify(const Call& call);
  void prune(const Call& call);
  void wait(const Call& call);
  void logs(const Call& call);
  void outputs(const Call& call);
  void output_file(const Call& call);
  void events(const Call& call);
  void job_events(const Call& call);
  void back_up(const Call& call);
  void rebuild(const Call& call);
  void export_description(const Call& call);
  void export_output(const Call& call);
  void export_image(const Call& call);
  void begin_import(const Call& call);
  void import_piece(const Call& call);
  void finish_import(const Call& call);
  void abandon_import(const Call& call);

  using WithJob = std::function<void(const Coordinator&, Catalog&, const JobRecord&)>;
  void with_job(const Call& call, WithJob then);
  void ask(const Call& call, std::function<Event(RequestId)> make, std::function<nlohmann::json(const Answer&)> show);
  // ask() about the job that the path names.
  void ask_job(const Call& call, std::function<Event(RequestId, const JobId&)> make,
               std::function<nlohmann::json(const Answer&)> show);
  struct Poll;
  std::shared_ptr<Poll> begin_poll(const Call& call, const char* key, std::uint64_t otherwise);
  void wait_round(const Call& call, const std::shared_ptr<Poll>& poll);
  struct EventsAsked;
  void begin_events(const Call& call, const std::string& job);
  void events_round(const Call& call, const std::shared_ptr<const EventsAsked>& asked);
  void logs_round(const Call& call, const std::shared_ptr<Poll>& poll, std::uint64_t offset);
  void send_logs(const Call& call, const JobRecord& job, std::uint64_t offset);

  Driver& driver_;
  JobFiles& files_;
  Spools& spools_;
  const std::filesystem::path catalog_;
  const Limits limits_;
  using PollCount = std::shared_ptr<std::atomic<std::size_t>>;
  const PollCount polls_ =
      std::make_shared<std::atomic<std::size_t>>(0);  // shared: a poll may outlive us in a stopped driver
};

}  // namespace stillpoint::coordinator
