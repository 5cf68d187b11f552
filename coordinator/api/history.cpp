// The history's endpoints: of a job, of the site, of a host; a long poll where there is nothing new yet. A reader goes
// on behind the id of the last line that it has, so nothing is lost or doubled over a connection or a coordinator that
// ends.
#include <nlohmann/json.hpp>

#include "coordinator/api/poll.h"
#include "coordinator/api/reading.h"
#include "coordinator/api/views.h"

namespace stillpoint::coordinator {
namespace {

constexpr std::uint64_t kMostLines = 1'000;  // in one answer

}  // namespace

struct Api::EventsAsked {
  Catalog::EventsWanted wanted;
  std::string job;  // as the path names it; empty: the site's
  std::shared_ptr<Poll> poll;
};

void Api::events(const Call& call) { begin_events(call, ""); }
void Api::job_events(const Call& call) { begin_events(call, call->request.path[2]); }

void Api::begin_events(const Call& call, const std::string& job) {
  const auto after = query_number(call->request, "after", 0);
  const auto limit = query_number(call->request, "limit", kMostLines);
  const auto last = query_number(call->request, "last", 0);
  for (const auto* number : {&after, &limit, &last})
    if (!*number) return call->respond(error_response(400, number->error().message()));
  if (*limit == 0 || *limit > kMostLines || *last > kMostLines)
    return call->respond(error_response(400, "limit, last: expected 1 to " + std::to_string(kMostLines) + " lines"));
  auto poll = begin_poll(call, "waitMs", 0);
  if (!poll) return;
  auto asked = std::make_shared<EventsAsked>();
  asked->job = job;
  asked->poll = std::move(poll);
  asked->wanted.after = *after;
  asked->wanted.newest = *last != 0;
  asked->wanted.limit = *last != 0 ? *last : *limit;
  if (const auto host = call->request.query.find("host"); host != call->request.query.end())
    asked->wanted.host = HostName{host->second};
  events_round(call, asked);
}

void Api::events_round(const Call& call, const std::shared_ptr<const EventsAsked>& asked) {
  driver_.look([this, call, asked](const Coordinator& core, Catalog& catalog) {
    auto wanted = asked->wanted;
    const JobRecord* job = asked->job.empty() ? nullptr : find_job(core.state(), asked->job);
    const bool gone = !asked->job.empty() && job == nullptr;  // its history may be there still, by its id
    wanted.job = job != nullptr ? job->job : JobId{asked->job};
    auto lines = catalog.events(wanted);
    const auto newest = catalog.newest_event();
    if (!lines) return call->respond(error_response(lines.error()));
    if (!newest) return call->respond(error_response(newest.error()));
    if (gone && lines->empty() && wanted.after == 0)
      return call->respond(error_response(Error{ErrorKind::not_found, "look-up", "job " + asked->job.substr(0, 80),
                                                "there is none of that id or name, nor any history of that id"}));
    const bool ended = gone || (job != nullptr && is_over(job->state));
    if (lines->empty() && !ended && wanted.after <= *newest && !asked->poll->over())
      return driver_.watch_history(asked->poll->deadline, call->gone,
                                   [this, call, asked] { events_round(call, asked); });
    HttpResponse response = json_response(events_json(*lines));
    response.headers = {{"X-Newest", std::to_string(*newest)},
                        {"X-Job", wanted.job.value},
                        {"X-State", job != nullptr ? std::string(name(job->state))
                                    : gone         ? "removed"
                                                   : ""}};
    call->respond(std::move(response));
  });
}

}  // namespace stillpoint::coordinator
