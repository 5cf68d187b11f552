#include "coordinator/api/api.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "common/log.h"
#include "coordinator/api/poll.h"
#include "coordinator/api/reading.h"
#include "coordinator/api/views.h"
#include "coordinator/core/json_reader.h"
#include "coordinator/core/spec_json.h"

namespace stillpoint::coordinator {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kDefaultWaitMs = 30'000;

unsigned status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::not_found: return 404;
    case ErrorKind::refused: return 409;
    case ErrorKind::storage_full: return 507;
    case ErrorKind::deadline: return 504;
    case ErrorKind::transient: return 503;
    case ErrorKind::permanent:
    case ErrorKind::damaged:
    case ErrorKind::not_quiet: return 500;
  }
  return 500;
}

// Bytes from hosts and users may be anything: what is not UTF-8 is replaced, never an exception.
std::string text_of(const json& document) {
  return document.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

std::string rest_of(const std::vector<std::string>& path, std::size_t from) {
  std::string joined;
  for (std::size_t i = from; i < path.size(); ++i) joined += (i == from ? "" : "/") + path[i];
  return joined;
}

Error no_job(const std::string& name) {
  return Error{ErrorKind::not_found, "look-up", "job " + name, "there is none of that id or name"};
}

json show_nothing(const Answer&) { return json::object(); }

struct Submission {
  JobSpec spec;
  std::string manifest, spool;
};

Result<Submission> read_submission(const json& document) {
  std::vector<std::string> problems;
  JsonReader reader(document, "", problems);
  Submission submission;
  std::string directory;
  const json* spec = reader.find("spec", true);
  reader.read("manifest", submission.manifest);
  reader.read("spool", submission.spool);
  reader.read("submitDirectory", directory);
  reader.refuse_unknown();
  if (spec != nullptr) {
    auto read = spec_from_json(*spec);
    if (read) submission.spec = std::move(*read);
    else problems.push_back(read.error().cause);
  }
  if (problems.empty()) problems = spec_problems(submission.spec);
  if (!problems.empty()) return Error{ErrorKind::refused, "reading", "job", join_problems(problems)};
  submission.spec.submit_directory = directory;
  return submission;
}

}  // namespace

// ---- answers

HttpResponse Api::json_response(const json& document, unsigned status) {
  HttpResponse response;
  response.status = status;
  response.body = text_of(document);
  return response;
}

HttpResponse Api::error_response(const Error& error) { return json_response(error_json(error), status_of(error.kind)); }

HttpResponse Api::error_response(unsigned status, const std::string& cause) {
  const char* kind = status == 404 ? "not-found" : status == 503 ? "transient" : "refused";
  return json_response({{"error", {{"kind", kind}, {"message", cause}}}}, status);
}

// ---- which request is which

std::span<const Api::Route> Api::routes() {
  static const Route table[] = {
      {"GET", {"health"}, {}, &Api::health},
      {"GET", {"hosts"}, {}, &Api::hosts},
      {"POST", {"hosts", "*", "cordon"}, {}, &Api::cordon},
      {"POST", {"hosts", "*", "uncordon"}, {}, &Api::cordon},
      {"GET", {"store"}, {}, &Api::store},
      {"POST", {"spool"}, {}, &Api::make_spool},
      {"POST", {"jobs"}, {}, &Api::submit},
      {"GET", {"jobs"}, {}, &Api::jobs},
      {"GET", {"jobs", "*"}, {"ranks"}, &Api::status},
      {"DELETE", {"jobs", "*"}, {}, &Api::remove},
      {"POST", {"jobs", "*", "stop"}, {}, &Api::stop},
      {"POST", {"jobs", "*", "checkpoint"}, {}, &Api::checkpoint},
      {"GET", {"jobs", "*", "checkpoints"}, {}, &Api::checkpoints},
      {"POST", {"jobs", "*", "restart"}, {}, &Api::restart},
      {"POST", {"jobs", "*", "verify"}, {}, &Api::verify},
      {"POST", {"jobs", "*", "prune"}, {}, &Api::prune},
      {"GET", {"jobs", "*", "wait"}, {"timeoutMs"}, &Api::wait},
      {"GET", {"jobs", "*", "logs"}, {"offset", "waitMs"}, &Api::logs},
      {"GET", {"jobs", "*", "outputs"}, {}, &Api::outputs},
      {"GET", {"jobs", "*", "outputs", "**"}, {}, &Api::output_file},
      {"GET", {"jobs", "*", "events"}, {"after", "limit", "last", "host", "waitMs"}, &Api::job_events},
      {"POST", {"catalog", "backup"}, {}, &Api::back_up},
      {"POST", {"catalog", "rebuild"}, {}, &Api::rebuild},
      {"GET", {"events"}, {"after", "limit", "last", "host", "waitMs"}, &Api::events},
      {"GET", {"jobs", "*", "export"}, {"epoch"}, &Api::export_description},
      {"GET", {"jobs", "*", "export", "*", "output"}, {"offset"}, &Api::export_output},
      {"GET", {"jobs", "*", "export", "*", "guests", "*", "*"}, {"offset"}, &Api::export_image},
      {"POST", {"imports"}, {"name"}, &Api::begin_import},
      {"PUT", {"imports", "*", "output"}, {"offset"}, &Api::import_piece},
      {"PUT", {"imports", "*", "guests", "*", "*"}, {"offset", "last"}, &Api::import_piece},
      {"POST", {"imports", "*", "finish"}, {}, &Api::finish_import},
      {"DELETE", {"imports", "*"}, {}, &Api::abandon_import},
  };
  return table;
}

bool Api::matches(const Route& route, const std::vector<std::string>& path) {
  if (path.empty() || path.front() != "v1") return false;
  for (std::size_t i = 0; i < route.pattern.size(); ++i) {
    if (i + 1 >= path.size()) return false;
    if (route.pattern[i] == "**") return true;
    if (route.pattern[i] != "*" && route.pattern[i] != path[i + 1]) return false;
  }
  return path.size() == route.pattern.size() + 1;
}

void Api::handle(HttpCall request_call) {
  auto call = std::make_shared<HttpCall>(std::move(request_call));
  const HttpRequest& request = call->request;
  std::string allowed;
  for (const Route& route : routes()) {
    if (!matches(route, request.path)) continue;
    if (route.method != request.method) {
      allowed += (allowed.empty() ? "" : ", ") + std::string(route.method);
      continue;
    }
    for (const auto& [key, value] : request.query)
      if (std::find(route.query_keys.begin(), route.query_keys.end(), key) == route.query_keys.end())
        return call->respond(error_response(400, "unknown query parameter \"" + key.substr(0, 64) + "\""));
    return (this->*route.answer)(call);
  }
  if (allowed.empty()) return call->respond(error_response(404, "no such endpoint of API version 1"));
  HttpResponse response = error_response(405, "this endpoint takes " + allowed);
  response.headers.emplace_back("Allow", allowed);
  call->respond(std::move(response));
}

// ---- helpers of the endpoints

void Api::with_job(const Call& call, WithJob then) {
  driver_.look([call, then = std::move(then)](const Coordinator& core, Catalog& catalog) {
    const JobRecord* job = find_job(core.state(), call->request.path[2]);
    if (job == nullptr) return call->respond(error_response(no_job(call->request.path[2].substr(0, 80))));
    then(core, catalog, *job);
  });
}

void Api::ask(const Call& call, std::function<Event(RequestId)> make, std::function<json(const Answer&)> show) {
  driver_.ask(std::move(make), [call, show = std::move(show)](const Result<Answer>& answer) {
    call->respond(answer ? json_response(show(*answer)) : error_response(answer.error()));
  });
}

void Api::ask_job(const Call& call, std::function<Event(RequestId, const JobId&)> make,
                  std::function<json(const Answer&)> show) {
  with_job(call, [this, call, make = std::move(make), show = std::move(show)](const Coordinator&, Catalog&,
                                                                              const JobRecord& job) {
    ask(
        call, [make, id = job.job](RequestId request) { return make(request, id); }, show);
  });
}

// ---- site

void Api::health(const Call& call) {
  driver_.look([call](const Coordinator& core, Catalog&) {
    call->respond(json_response({{"coordinator", core.state().coordinator}, {"version", STILLPOINT_VERSION}}));
  });
}

void Api::hosts(const Call& call) {
  driver_.look([call](const Coordinator& core, Catalog&) { call->respond(json_response(hosts_json(core))); });
}

void Api::store(const Call& call) {
  driver_.look([call](const Coordinator& core, Catalog&) { call->respond(json_response(store_json(core))); });
}

void Api::cordon(const Call& call) {
  const HostName host{call->request.path[2]};
  const bool cordoned = call->request.path[3] == "cordon";
  ask(
      call,
      [=](RequestId request) {
        return CordonHost{request, host, cordoned};
      },
      show_nothing);
}

// ---- submitting

void Api::make_spool(const Call& call) {
  call->on_worker([this, call] {
    auto id = spools_.create();
    call->respond(id ? json_response({{"spool", *id}}) : error_response(id.error()));
  });
}

bool Api::is_upload(const HttpRequest& request) {
  return request.method == "PUT" && request.path.size() >= 4 && request.path[0] == "v1" && request.path[1] == "spool";
}

Result<Api::Incoming> Api::begin_upload(const HttpRequest& request) {
  Incoming incoming;
  if (!request.mode_header.empty()) {
    auto mode = number_in(request.mode_header, "header X-Mode (octal)", 8);
    if (!mode) return mode.error();
    if (*mode > 0777)
      return Error{ErrorKind::refused, "reading", "header X-Mode", "expected an octal number up to 777"};
    incoming.mode = static_cast<mode_t>(*mode);
  }
  auto upload = spools_.begin(request.path[2], rest_of(request.path, 3));
  if (!upload) return upload.error();
  incoming.upload = std::move(*upload);
  return incoming;
}

void Api::submit(const Call& call) {
  auto document = document_of(call->request);
  if (!document) return call->respond(error_response(400, document.error().message()));
  auto read = read_submission(*document);
  if (!read) return call->respond(error_response(400, read.error().message()));
  auto submission = std::make_shared<Submission>(std::move(*read));
  call->on_worker([this, call, submission] {
    if (auto claimed = spools_.claim(submission->spool, submission->spec.files); !claimed)
      return call->respond(error_response(claimed.error()));
    driver_.ask(
        [submission](RequestId request) {
          return SubmitJob{request, submission->spec, submission->manifest, submission->spool};
        },
        [this, call, spool = submission->spool](const Result<Answer>& answer) {
          const auto* submitted = answer ? std::get_if<Submitted>(&*answer) : nullptr;
          if (submitted == nullptr) {
            const Error why = answer ? Error{ErrorKind::permanent, "submission", "job", "no answer"} : answer.error();
            // A refused job is submitted anew, with its files; their place is not to wait for that.
            return call->on_worker([this, call, spool, why] {
              if (why.kind == ErrorKind::transient) spools_.unclaim(spool);
              else if (auto removed = spools_.remove(spool); !removed)
                log_warn("spool of a refused job not removed",
                         {{"spool", spool}, {"cause", removed.error().message()}});
              call->respond(error_response(why));
            });
          }
          call->respond(json_response({{"job", submitted->job.value}, {"incarnation", submitted->incarnation.value}}));
        });
  });
}

// ---- looking at jobs

void Api::jobs(const Call& call) {
  driver_.look([call](const Coordinator& core, Catalog&) { call->respond(json_response(jobs_json(core))); });
}

void Api::status(const Call& call) {
  auto fresh = query_number(call->request, "ranks", 0);
  if (!fresh || *fresh > 1) return call->respond(error_response(400, "ranks: expected 0 or 1"));
  with_job(call, [this, call, ask_hosts = *fresh == 1](const Coordinator& core, Catalog&, const JobRecord& job) {
    if (!ask_hosts || is_over(job.state)) return call->respond(json_response(status_json(core, job)));
    driver_.ask(
        [id = job.job](RequestId request) {
          return QueryRanks{request, id};
        },
        [this, call](const Result<Answer>& answer) {
          // Hosts that do not answer are no reason to say nothing: the last known states stand.
          std::vector<wire::RankReport> ranks;
          if (const auto* found = answer ? std::get_if<Ranks>(&*answer) : nullptr) ranks = found->ranks;
          with_job(call, [call, ranks](const Coordinator& now, Catalog&, const JobRecord& record) {
            call->respond(json_response(status_json(now, record, ranks)));
          });
        });
  });
}

void Api::checkpoints(const Call& call) {
  with_job(call, [call](const Coordinator& core, Catalog&, const JobRecord& job) {
    call->respond(json_response(checkpoints_json(core, job)));
  });
}

// ---- acting on jobs

void Api::remove(const Call& call) {
  ask_job(
      call,
      [](RequestId request, const JobId& job) {
        return RemoveJob{request, job};
      },
      show_nothing);
}

void Api::stop(const Call& call) {
  ask_job(
      call,
      [](RequestId request, const JobId& job) {
        return StopJob{request, job};
      },
      show_nothing);
}

void Api::checkpoint(const Call& call) {
  auto document = document_of(call->request);
  if (!document) return call->respond(error_response(400, document.error().message()));
  std::optional<std::uint32_t> gap;
  std::vector<std::string> problems;
  JsonReader reader(*document, "", problems);
  reader.read("testUncoordinatedGapMs", gap);
  reader.refuse_unknown();
  if (!problems.empty()) return call->respond(error_response(400, join_problems(problems)));
  ask_job(
      call,
      [gap](RequestId request, const JobId& job) {
        return CheckpointJob{request, job, gap};
      },
      [](const Answer& answer) {
        const auto* taken = std::get_if<CheckpointTaken>(&answer);
        return taken != nullptr ? checkpoint_json(taken->epoch) : json::object();
      });
}

void Api::restart(const Call& call) {
  auto document = document_of(call->request);
  if (!document) return call->respond(error_response(400, document.error().message()));
  std::optional<std::uint64_t> from;
  std::vector<std::string> hosts;
  bool skip = false;
  std::vector<std::string> problems;
  JsonReader reader(*document, "", problems);
  reader.read("from", from);
  reader.read("hosts", hosts);
  reader.read("testSkipLinkCheck", skip);
  reader.refuse_unknown();
  if (!problems.empty()) return call->respond(error_response(400, join_problems(problems)));
  ask_job(
      call,
      [=](RequestId request, const JobId& job) {
        RestartJob event{request, job, std::nullopt, {}, skip};
        if (from) event.from = Epoch{*from};
        for (const auto& host : hosts) event.hosts.push_back(HostName{host});
        return event;
      },
      [](const Answer& answer) {
        const auto* restarted = std::get_if<Restarted>(&answer);
        return restarted != nullptr ? restart_json(*restarted) : json::object();
      });
}

void Api::verify(const Call& call) {
  auto document = document_of(call->request);
  if (!document) return call->respond(error_response(400, document.error().message()));
  std::optional<std::uint64_t> epoch;
  std::vector<std::string> problems;
  JsonReader reader(*document, "", problems);
  reader.read("epoch", epoch);
  reader.refuse_unknown();
  if (!problems.empty()) return call->respond(error_response(400, join_problems(problems)));
  ask_job(
      call,
      [epoch](RequestId request, const JobId& job) {
        VerifyJob event{request, job, std::nullopt};
        if (epoch) event.epoch = Epoch{*epoch};
        return event;
      },
      [](const Answer& answer) {
        const auto* verified = std::get_if<Verified>(&answer);
        return verified != nullptr ? verified_json(*verified) : json::object();
      });
}

void Api::prune(const Call& call) {
  auto document = document_of(call->request);
  if (!document) return call->respond(error_response(400, document.error().message()));
  std::optional<std::uint32_t> keep;
  std::vector<std::string> problems;
  JsonReader reader(*document, "", problems);
  reader.read("keep", keep);
  reader.refuse_unknown();
  if (!problems.empty()) return call->respond(error_response(400, join_problems(problems)));
  ask_job(
      call,
      [keep](RequestId request, const JobId& job) {
        return PruneJob{request, job, keep};
      },
      [](const Answer& answer) {
        const auto* pruned = std::get_if<Pruned>(&answer);
        return pruned != nullptr ? pruned_json(*pruned) : json::object();
      });
}

// ---- waiting

// Null when the request was answered already: it makes no sense, or too many wait.
std::shared_ptr<Api::Poll> Api::begin_poll(const Call& call, const char* key, std::uint64_t otherwise) {
  auto wait = query_number(call->request, key, otherwise);
  if (!wait || std::chrono::milliseconds(*wait) > limits_.longest_wait) {
    call->respond(error_response(
        400, std::string(key) + ": expected milliseconds, at most " + std::to_string(limits_.longest_wait.count())));
    return nullptr;
  }
  if (*wait > 0 && *polls_ >= limits_.long_polls) {
    call->respond(error_response(503, "too many requests are waiting; ask again without waiting, or later"));
    return nullptr;
  }
  return std::make_shared<Poll>(polls_, Clock::now() + std::chrono::milliseconds(*wait));
}

void Api::wait(const Call& call) {
  if (auto poll = begin_poll(call, "timeoutMs", kDefaultWaitMs)) wait_round(call, poll);
}

void Api::wait_round(const Call& call, const std::shared_ptr<Poll>& poll) {
  with_job(call, [this, call, poll](const Coordinator& core, Catalog&, const JobRecord& job) {
    if (is_over(job.state) || poll->over()) return call->respond(json_response(status_json(core, job)));
    driver_.watch(job.job, poll->deadline, call->gone, [this, call, poll] { wait_round(call, poll); });
  });
}

void Api::logs(const Call& call) {
  auto offset = query_number(call->request, "offset", 0);
  if (!offset) return call->respond(error_response(400, offset.error().message()));
  if (auto poll = begin_poll(call, "waitMs", 0)) logs_round(call, poll, *offset);
}

void Api::logs_round(const Call& call, const std::shared_ptr<Poll>& poll, std::uint64_t offset) {
  with_job(call, [this, call, poll, offset](const Coordinator&, Catalog&, const JobRecord& job) {
    const std::uint64_t length = files_.output_length(job.job);
    // The length is looked at before the watch is set, both on the core's thread: growth in between is told after.
    if (length == offset && !is_over(job.state) && !poll->over())
      return driver_.watch(job.job, poll->deadline, call->gone,
                           [this, call, poll, offset] { logs_round(call, poll, offset); });
    send_logs(call, job, offset);
  });
}

void Api::send_logs(const Call& call, const JobRecord& job, std::uint64_t offset) {
  call->on_worker(
      [this, call, offset, id = job.job, state = std::string(name(job.state)), incarnation = job.incarnation] {
        auto part = files_.read_output(id, offset, limits_.log_bytes);
        if (!part) return call->respond(error_response(part.error()));
        HttpResponse response;
        if (offset > part->length) {
          response = error_response(409, "the output was cut back to " + std::to_string(part->length) +
                                             " bytes at a restart; read on from there");
        } else {
          response.content_type = "application/octet-stream";
          response.body = std::move(part->data);
        }
        response.headers = {{"X-Offset", std::to_string(offset)},
                            {"X-Length", std::to_string(part->length)},
                            {"X-State", state},
                            {"X-Incarnation", std::to_string(incarnation.value)}};
        call->respond(std::move(response));
      });
}

// ---- output files

void Api::outputs(const Call& call) {
  with_job(call, [this, call](const Coordinator&, Catalog&, const JobRecord& job) {
    // Behind what the core has ordered to be stored so far.
    files_.push([this, call, id = job.job] {
      auto files = files_.outputs(id);
      if (!files) return call->respond(error_response(files.error()));
      json list = json::array();
      for (const auto& file : *files) list.push_back({{"name", file.name}, {"size", file.size}});
      call->respond(json_response(list));
    });
  });
}

void Api::output_file(const Call& call) {
  with_job(call, [this, call](const Coordinator&, Catalog&, const JobRecord& job) {
    files_.push([this, call, id = job.job] {
      const std::string name = rest_of(call->request.path, 4);
      auto file = files_.open_output(id, name);
      struct stat info {};
      if (!file) return call->respond(error_response(file.error()));
      if (::fstat(file->get(), &info) != 0) return call->respond(error_response(errno_error("stat", name, errno)));
      HttpResponse response;
      response.content_type = "application/octet-stream";
      response.file = std::move(*file);
      response.file_bytes = static_cast<std::uint64_t>(info.st_size);
      call->respond(std::move(response));
    });
  });
}

}  // namespace stillpoint::coordinator
