#include "coordinator/core/verify.h"

#include <fmt/format.h>

#include <algorithm>

#include "coordinator/core/copies.h"

namespace stillpoint::coordinator::verify {
namespace {

using State = EpochCheck::State;

constexpr std::size_t kMostProblems = 50;   // of an epoch, in an answer
constexpr const char* kObjectStore = "s3";  // as images name their copies there
constexpr std::size_t kReasonBytes = 400;   // in the catalog: the events have the rest

void note_problem(EpochCheck& check, State state, std::string words) {
  if (check.state != State::damaged) check.state = state;
  if (check.problems.size() < kMostProblems) check.problems.push_back(std::move(words));
}

// Those who are up and have it in a directory: of a directory that hosts share one of them, the host that stored it
// rather than another.
std::vector<HostName> readers(const Core& core, const wire::GuestImage& image) {
  std::vector<HostName> found;
  std::set<std::string> directories;
  const auto add = [&](const HostName& name) {
    const auto host = core.hosts.find(name);
    if (host == core.hosts.end() || !core.usable(name) || !copies::keeps(core, name, image.memory())) return;
    if (directories.insert(host->second.hello.store_id()).second) found.push_back(name);
  };
  add(copies::owner(image));
  for (const auto& [name, host] : core.hosts) add(name);
  return found;
}

// What one host is asked to read: in its directory, and in the S3 store.
struct Part {
  std::vector<const wire::GuestImage*> here, object_store;
};

void expect(EpochCheck& check, const HostName& host, const Part& part) {
  if (!part.here.empty()) check.copies[host.value].unanswered += static_cast<unsigned>(part.here.size());
  if (!part.object_store.empty())
    check.copies[kObjectStore].unanswered += static_cast<unsigned>(part.object_store.size());
}

void ask(Core& core, const JobId& job, Epoch epoch, const std::map<HostName, Part>& by_host, EpochCheck& check) {
  wire::ToHost same;
  copies::add_peers(core, *same.mutable_verify_images());
  const CommonPart common = common_part(same);
  for (const auto& [host, part] : by_host) {
    expect(check, host, part);
    core.ask(
        Owner::verify, host, job, Incarnation{}, epoch,
        [&](wire::ToHost& m) {
          for (const auto* image : part.here) *m.mutable_verify_images()->add_images() = *image;
          for (const auto* image : part.object_store) *m.mutable_verify_images()->add_object_store() = *image;
          for (auto& image : *m.mutable_verify_images()->mutable_images()) image.clear_domain_xml();
          for (auto& image : *m.mutable_verify_images()->mutable_object_store()) image.clear_domain_xml();
        },
        common);
  }
}

// here: to be read by whoever has them in a directory; object_store: in the S3 store.
void ask(Core& core, const JobId& job, Epoch epoch, const std::vector<wire::GuestImage>& here,
         const std::vector<wire::GuestImage>& object_store, EpochCheck& check) {
  std::map<HostName, Part> by_host;
  for (const auto& image : here) {
    const auto hosts = readers(core, image);
    for (const auto& host : hosts) by_host[host].here.push_back(&image);
    if (hosts.empty() && !copies::in_object_store(image))
      note_problem(check, State::unchecked, fmt::format("guest {}: no host that keeps its image is up", image.guest()));
  }
  for (const auto& image : object_store) {
    if (const auto reader = copies::reader_of_object_store(core, image)) {
      by_host[*reader].object_store.push_back(&image);
      continue;
    }
    ++check.copies[kObjectStore].unanswered;
    note_problem(check, State::unchecked,
                 fmt::format("guest {}, in the S3 store: no host is up that can use it", image.guest()));
  }
  ask(core, job, epoch, by_host, check);
}

std::vector<wire::GuestImage> of_object_store(const EpochRecord& epoch) {
  std::vector<wire::GuestImage> images;
  for (const auto& image : epoch.images)
    if (copies::in_object_store(image)) images.push_back(image);
  return images;
}

bool is_waiting(const Core& core, const JobId& job) {
  return std::ranges::any_of(
      core.requests, [&](const auto& entry) { return entry.second.job == job && entry.second.owner == Owner::verify; });
}

std::string reason_of(const EpochCheck& check) {
  std::string text;
  for (const auto& problem : check.problems) text += (text.empty() ? "" : "; ") + problem;
  if (text.size() > kReasonBytes) text = text.substr(0, kReasonBytes) + " …";
  return text;
}

// One that is damaged in some place and whole in another is not damaged: it may be put right there another time.
void judge(VerifyRun& run) {
  EpochCheck& check = run.current;
  if (check.state == State::damaged && std::ranges::includes(run.whole, run.damaged)) check.state = State::unchecked;
  for (auto& [place, copy] : check.copies)
    if (copy.unanswered > 0 && copy.state == State::ok) copy.state = State::unchecked;
}

void settle(Core& core, const VerifyRun& run) {
  const EpochCheck& check = run.current;
  auto& epoch = core.epoch(check.epoch);
  if (check.state == State::damaged) return found_damaged(core, check.epoch, reason_of(check));
  const bool is_whole = std::ranges::all_of(
      epoch.images, [&](const wire::GuestImage& image) { return run.whole.contains(image.guest()); });
  if (check.state == State::ok) epoch.verified = core.wall;
  else if (!is_whole || epoch.state != EpochState::damaged) return;
  if (epoch.state == EpochState::damaged) {
    epoch.state = EpochState::committed;
    core.note(Log::Level::info, epoch.job, {}, check.epoch, "epoch whole again", "it was damaged: " + epoch.reason);
    epoch.reason.clear();
    core.effects.push_back(JobChanged{epoch.job});
  }
  core.save(epoch);
}

void next(Core& core, const JobId& job);

// All that was asked of the epoch in front is answered.
void epoch_done(Core& core, const JobId& job) {
  auto& run = *core.run(job).verify;
  judge(run);
  if (has_images(core.epoch(run.left.front()).state)) settle(core, run);
  else run.current = {run.left.front(), State::unchecked, run.current.bytes, {"it was pruned meanwhile"}};
  run.done.push_back(std::move(run.current));
  run.left.erase(run.left.begin());
  next(core, job);
}

void next(Core& core, const JobId& job) {
  auto& slot = core.run(job).verify;
  if (slot->left.empty()) {
    const VerifyRun run = std::move(*slot);
    slot.reset();
    return core.reply(run.request, Verified{job, run.done});
  }
  const auto& epoch = core.epoch(slot->left.front());
  slot->current = {epoch.epoch, State::ok, 0, {}};
  slot->whole.clear();
  slot->damaged.clear();
  const auto remote = of_object_store(epoch);  // read after what is at hand
  slot->deadline =
      core.now + kVerifyDeadline +
      std::chrono::milliseconds(std::uint64_t{remote.empty() ? 1u : 2u} * epoch.bytes_raw / kImageBytesPerMs);
  if (has_images(epoch.state)) ask(core, job, epoch.epoch, epoch.images, remote, slot->current);
  if (!is_waiting(core, job)) epoch_done(core, job);
}

Result<std::vector<Epoch>> chosen(const Core& core, const VerifyJob& event) {
  std::vector<Epoch> epochs;
  for (const auto& [number, epoch] : core.catalog.epochs)
    if (epoch.job == event.job && has_images(epoch.state)) epochs.push_back(number);
  if (!event.epoch) return epochs;
  const auto found = core.catalog.epochs.find(*event.epoch);
  const std::string object = fmt::format("checkpoint {} of {}", event.epoch->value, event.job.value);
  if (found == core.catalog.epochs.end() || found->second.job != event.job)
    return Error{ErrorKind::not_found, "verify", object, "no such checkpoint"};
  if (!has_images(found->second.state))
    return refused("verify", object, fmt::format("it is {}: it has no images", name(found->second.state)));
  return std::vector{*event.epoch};
}

}  // namespace

void on_request(Core& core, const VerifyJob& event) {
  if (core.find(event.job) == nullptr)
    return core.refuse(event.request, Error{ErrorKind::not_found, "verify", event.job.value, "no such job"});
  auto& run = core.run(event.job);
  if (run.remove) return core.refuse(event.request, refused("verify", event.job.value, "the job is being removed"));
  if (run.verify)
    return core.refuse(event.request, refused("verify", event.job.value,
                                              fmt::format("its checkpoint {} is being verified already; wait for that",
                                                          run.verify->left.front().value)));
  auto epochs = chosen(core, event);
  if (!epochs.has_value()) return core.refuse(event.request, epochs.error());
  run.verify = VerifyRun{event.request, std::move(epochs.value()), {}, {}, {}, {}, {}};
  next(core, event.job);
}

namespace {

// What a host says of one guest's image, in its directory or in the S3 store.
void take_in(Core& core, const Request& request, const wire::ImageCheck& image) {
  VerifyRun& run = *core.run(request.job).verify;
  EpochCheck& check = run.current;
  auto& copy = check.copies[image.object_store() ? kObjectStore : request.host.value];
  if (copy.unanswered > 0) --copy.unanswered;
  copy.bytes += image.bytes();
  check.bytes += image.bytes();
  if (image.problems().empty()) run.whole.insert(image.guest());
  for (const std::string& mended : image.mended()) {
    const std::string words = fmt::format("guest {}: {}", image.guest(), mended);
    core.note(Log::Level::warn, request.job, request.host, Epoch{request.message.epoch()}, "image mended", words);
    check.mended.push_back(words);
  }
  for (const auto& problem : image.problems()) {
    const State state = problem.kind() == wire::Failure::DAMAGED ? State::damaged : State::unchecked;
    if (state == State::damaged) run.damaged.insert(image.guest());
    if (copy.state != State::damaged) copy.state = state;
    note_problem(
        check, state,
        fmt::format("guest {}{}, read by {}: {}", image.guest(), image.object_store() ? ", in the S3 store" : "",
                    request.host.value, from_wire(problem).message()));
  }
}

}  // namespace

void on_answer(Core& core, const Request& request, const wire::FromHost& answer) {
  auto& check = core.run(request.job).verify->current;  // cancel() took the requests when it ended
  std::set<std::pair<bool, std::uint32_t>> missing;     // in the S3 store, guest
  for (const auto& image : request.message.verify_images().images()) missing.emplace(false, image.guest());
  for (const auto& image : request.message.verify_images().object_store()) missing.emplace(true, image.guest());
  if (answer.has_failure() || !answer.has_verified()) {
    note_problem(check, State::unchecked, host_error(request, answer).message());
    missing.clear();
  }
  for (const auto& image : answer.verified().images())
    if (missing.erase({image.object_store(), image.guest()}) > 0) take_in(core, request, image);
  for (const auto& [object_store, guest] : missing)
    note_problem(
        check, State::unchecked,
        fmt::format("guest {}{}: {} did not say", guest, object_store ? ", in the S3 store" : "", request.host.value));
  if (!is_waiting(core, request.job)) epoch_done(core, request.job);
}

namespace {

// What the host that was asked will not answer any more.
void forget(EpochCheck& check, const HostName& host, const Request& request) {
  const auto& what = request.message.verify_images();
  const auto less = [&](const std::string& place, int images) {
    if (const auto copy = check.copies.find(place); copy != check.copies.end())
      copy->second.unanswered -= std::min(copy->second.unanswered, static_cast<unsigned>(images));
  };
  if (what.images_size() > 0) check.copies.erase(host.value);
  less(kObjectStore, what.object_store_size());
}

}  // namespace

void on_host_lost(Core& core, const HostName& host) {
  std::vector<Request> lost;
  std::erase_if(core.requests, [&](const auto& entry) {
    if (entry.second.owner != Owner::verify || entry.second.host != host) return false;
    lost.push_back(entry.second);
    return true;
  });
  for (const auto& request : lost) {
    // Whoever has another copy was asked from the beginning: only who shares the lost host's directory is asked now.
    const auto& what = request.message.verify_images();
    std::vector<wire::GuestImage> left;
    for (const auto& image : what.images())
      if (!core.hosts.at(host).hello.store_is_own() || readers(core, image).empty()) left.push_back(image);
    EpochCheck& check = core.run(request.job).verify->current;
    forget(check, host, request);
    ask(core, request.job, Epoch{request.message.epoch()}, left,
        {what.object_store().begin(), what.object_store().end()}, check);
    if (!is_waiting(core, request.job)) epoch_done(core, request.job);
  }
}

void cancel(Core& core, const JobId& job, const Error& why) {
  auto& slot = core.run(job).verify;
  if (!slot) return;
  core.cancel(job, Owner::verify);
  const RequestId client = slot->request;
  slot.reset();
  core.refuse(client, why);
}

void tick(Core& core, const JobId& job) {
  auto& slot = core.run(job).verify;
  if (!slot || core.now < slot->deadline) return;
  std::set<HostName> silent;
  for (const auto& [number, request] : core.requests)
    if (request.job == job && request.owner == Owner::verify) silent.insert(request.host);
  core.cancel(job, Owner::verify);
  note_problem(slot->current, State::unchecked, "no answer in time from " + joined(silent));
  epoch_done(core, job);
}

void found_damaged(Core& core, Epoch number, const std::string& what) {
  auto& epoch = core.epoch(number);
  if (!has_images(epoch.state)) return;
  const bool is_news = epoch.state == EpochState::committed;
  epoch.state = EpochState::damaged;
  epoch.reason = what;
  core.save(epoch);
  if (is_news) core.note(Log::Level::error, epoch.job, {}, number, "epoch damaged", what);
  core.effects.push_back(JobChanged{epoch.job});
}

}  // namespace stillpoint::coordinator::verify
