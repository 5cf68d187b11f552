#include "coordinator/core/rebuild.h"

#include <fmt/format.h>

#include <algorithm>

#include "coordinator/core/after_loss.h"
#include "coordinator/core/checkpoint_records.h"
#include "coordinator/core/copies.h"

namespace stillpoint::coordinator::rebuild {
namespace {

using wire::ReadRecords;

constexpr std::uint64_t kMostNumber = std::uint64_t{1} << 40;  // none comes near the end of what a catalog can count
constexpr std::size_t kMostProblems = 100;                     // that are told

void problem(RebuildRun& run, std::string text) {
  if (run.problems.size() < kMostProblems) run.problems.push_back(std::move(text));
  else ++run.untold;
}

// Of whom nothing is known: what counts most.
void unheard(RebuildRun& run, std::string text) { run.problems.insert(run.problems.begin(), std::move(text)); }

// ---- reading

void ask(Core& core, const HostName& host, ReadRecords::Where where, const std::string& after) {
  core.ask(Owner::rebuild, host, JobId{}, Incarnation{}, Epoch{}, [&](wire::ToHost& m) {
    m.mutable_read_records()->set_where(where);
    m.mutable_read_records()->set_after(after);
  });
  core.rebuild->deadline = core.now + kPieceDeadline;
}

void ask_all(Core& core) {
  std::set<std::string> directories;  // that hosts share: one of them reads what all of them stored
  bool object_store = false;
  for (const auto& [name, host] : core.hosts) {
    if (!core.usable(name)) continue;
    const bool shared = !host.hello.store_is_own();
    if (!shared) ask(core, name, ReadRecords::OWN, "");
    else if (directories.insert(host.hello.store_id()).second) ask(core, name, ReadRecords::DIRECTORY, "");
    if (host.hello.object_store() && !std::exchange(object_store, true)) ask(core, name, ReadRecords::OBJECT_STORE, "");
  }
}

// Several hosts may keep the same guest's image; each knows of the copies that there were when it was told.
void merge(EpochRecord& known, const EpochRecord& told) {
  for (const auto& image : told.images) {
    const auto same = std::ranges::find_if(known.images, [&](const auto& i) { return i.guest() == image.guest(); });
    if (same == known.images.end()) {
      known.images.push_back(image);
      continue;
    }
    copies::add_copies(*same->mutable_memory(), image.memory());
    copies::add_copies(*same->mutable_disk(), image.disk());
  }
  for (const auto& cut : told.cut)
    if (std::ranges::none_of(known.cut, [&](const auto& c) { return c.guest() == cut.guest(); }))
      known.cut.push_back(cut);
}

void take(Core& core, const HostName& host, const wire::Records& page) {
  auto& run = *core.rebuild;
  for (const auto& why : page.damaged()) problem(run, fmt::format("{}: {}", host.value, why));
  for (const auto& bytes : page.records()) {
    auto found = checkpoint_records::parse(bytes, core.catalog.coordinator);
    if (!found) {
      problem(run, fmt::format("{}: {}", host.value, found.error().cause));
      continue;
    }
    auto& epochs = run.epochs[found->epoch.job];
    const auto [known, is_new] = epochs.try_emplace(found->epoch.epoch, found->epoch);
    if (!is_new) merge(known->second, found->epoch);
    if (known == std::prev(epochs.end())) run.jobs[found->job.job] = std::move(found->job);
  }
}

// ---- taking in

bool has_numbers(const EpochRecord& epoch) {
  return epoch.epoch.value > 0 && epoch.epoch.value < kMostNumber && epoch.incarnation.value > 0 &&
         epoch.incarnation.value < kMostNumber;
}

// In the order of the guests, as a commit has them; false: something is missing.
bool is_whole(EpochRecord& epoch, std::uint32_t guests) {
  const auto by_guest = [](const auto& a, const auto& b) { return a.guest() < b.guest(); };
  std::ranges::sort(epoch.images, by_guest);
  std::ranges::sort(epoch.cut, by_guest);
  const auto each = [&](const auto& list) {
    for (std::uint32_t i = 0; i < list.size(); ++i)
      if (list[i].guest() != i) return false;
    return list.size() == guests;
  };
  return each(epoch.images) && each(epoch.cut);
}

// Of those that the catalog has never heard of.
std::vector<EpochRecord> whole_ones(Core& core, const JobRecord& job, std::map<Epoch, EpochRecord>& found) {
  std::vector<EpochRecord> whole;
  for (auto& [number, epoch] : found) {
    if (core.catalog.epochs.contains(number)) continue;
    if (!has_numbers(epoch)) {
      problem(*core.rebuild,
              fmt::format("checkpoint {} of {}: its numbers are none that a site counts", number.value, job.job.value));
      continue;
    }
    if (is_whole(epoch, job.spec.guests)) {
      whole.push_back(std::move(epoch));
      continue;
    }
    problem(*core.rebuild,
            fmt::format("checkpoint {} of {}: records of {} of its {} guests were found; bring the other "
                        "hosts that stored it up, and ask again",
                        number.value, job.job.value, epoch.images.size(), job.spec.guests));
  }
  return whole;
}

// Nothing: it is none that this catalog lost.
JobRecord* job_for(Core& core, JobRecord&& told) {
  if (JobRecord* known = core.find(told.job)) return known;
  const auto number = number_of(told.job);
  if (!number || !was_lost(core.catalog, *number)) return nullptr;
  found_again(core.catalog.lost_jobs, *number);
  core.persist(FoundJob{*number});
  JobRecord job = std::move(told);
  job.state = JobState::failed;
  job.anywhere = true;
  return &core.catalog.jobs.emplace(job.job, std::move(job)).first->second;
}

// It goes on behind the newest checkpoint that is known of it.
void go_on_behind(JobRecord& job, Incarnation newest, const std::vector<EpochRecord>& whole) {
  job.incarnation = std::max(job.incarnation, Incarnation{newest.value + kIncarnationsAhead});
  job.restored_from = std::max(job.restored_from, whole.back().epoch);
  job.reason = fmt::format(
      "its catalog was lost; {} of its checkpoints were found again, and what became of the job since the newest is "
      "not "
      "known: `stillpoint restart {}` brings it back from there",
      whole.size(), job.job.value);
}

void take_in(Core& core, const JobId& id, Rebuilt& done) {
  auto& run = *core.rebuild;
  auto whole = whole_ones(core, run.jobs.at(id), run.epochs.at(id));
  if (whole.empty()) return;
  if (const JobRecord* known = core.find(id); known != nullptr && !(known->anywhere && is_over(known->state)))
    return problem(run, fmt::format("{} has been restarted since the catalog was lost: {} of its checkpoints of before "
                                    "are left alone",
                                    id.value, whole.size()));
  JobRecord* const job = job_for(core, std::move(run.jobs.at(id)));
  if (job == nullptr)
    return problem(run, fmt::format("records of {}, which was removed: they are left alone", id.value));
  const auto newest = std::ranges::max_element(whole, {}, [](const auto& epoch) { return epoch.incarnation; });
  go_on_behind(*job, newest->incarnation, whole);
  Rebuilt::Job told{id, job->spec.name, {}};
  for (auto& epoch : whole) {
    const Epoch number = epoch.epoch;
    for (const auto& image : epoch.images) {
      epoch.bytes_raw += image.memory().raw_bytes() + image.disk().raw_bytes();
      epoch.bytes_stored += image.memory().stored_bytes() + image.disk().stored_bytes();
    }
    core.catalog.next_epoch = std::max(core.catalog.next_epoch, number.next());
    core.catalog.epochs[number] = std::move(epoch);
    told.epochs.push_back(number);
  }
  core.save_counters();
  core.save(*job);
  for (const auto number : told.epochs) core.save(core.epoch(number));
  core.note(Log::Level::warn, id, {}, told.epochs.back(), "rebuilt",
            fmt::format("{} checkpoints of records that hosts had of them", told.epochs.size()));
  core.effects.push_back(JobChanged{id});
  done.jobs.push_back(std::move(told));
}

// The lost catalog gave out all numbers up to the highest one that is found: of none of them it is known who had it.
void leap_behind(Core& core, const std::vector<JobId>& ids) {
  const std::uint64_t first = core.catalog.next_job;
  for (const auto& id : ids)
    if (const auto number = number_of(id); number && *number < kMostNumber)
      core.catalog.next_job = std::max(core.catalog.next_job, *number + 1);
  if (core.catalog.next_job == first) return;
  core.catalog.lost_jobs.push_back({first, core.catalog.next_job - 1});
  core.persist(AddLostJobs{core.catalog.lost_jobs.back()});
  core.save_counters();
}

void finish(Core& core) {
  Rebuilt done;
  std::vector<JobId> ids;
  for (const auto& [id, epochs] : core.rebuild->epochs) ids.push_back(id);
  leap_behind(core, ids);
  for (const auto& id : ids) take_in(core, id, done);
  auto& run = *core.rebuild;
  if (run.untold > 0) run.problems.push_back(fmt::format("and {} more", run.untold));
  done.problems = std::move(run.problems);
  core.reply(core.rebuild->request, std::move(done));
  core.rebuild.reset();
}

bool is_asked(const Core& core) {
  return std::ranges::any_of(core.requests, [](const auto& entry) { return entry.second.owner == Owner::rebuild; });
}

}  // namespace

void on_request(Core& core, const RebuildCatalog& event) {
  if (core.rebuild)
    return core.refuse(event.request, refused("rebuild", "catalog", "it is under way already; wait for its end"));
  core.rebuild.emplace().request = event.request;
  ask_all(core);
  if (is_asked(core)) return;
  core.rebuild.reset();
  core.refuse(event.request, Error{ErrorKind::transient, "rebuild", "catalog",
                                   "no host is up that could be asked for its records; try again when they are"});
}

void on_answer(Core& core, const Request& request, const wire::FromHost& answer) {
  if (!core.rebuild) return;
  if (answer.has_failure() || !answer.has_records()) {
    unheard(*core.rebuild, host_error(request, answer).message());
  } else {
    take(core, request.host, answer.records());
    if (const auto& last = answer.records().last(); !last.empty())
      ask(core, request.host, request.message.read_records().where(), last);
  }
  if (!is_asked(core)) finish(core);
}

void tick(Core& core) {
  if (!core.rebuild || core.now < core.rebuild->deadline) return;
  std::set<HostName> silent;
  for (const auto& [id, request] : core.requests)
    if (request.owner == Owner::rebuild) silent.insert(request.host);
  std::erase_if(core.requests, [](const auto& entry) { return entry.second.owner == Owner::rebuild; });
  unheard(*core.rebuild, joined(silent) + " did not say in time which records there are; ask again");
  finish(core);
}

void on_host_lost(Core& core, const HostName& host) {
  const auto asked = std::erase_if(core.requests, [&](const auto& entry) {
    return entry.second.owner == Owner::rebuild && entry.second.host == host;
  });
  if (asked == 0 || !core.rebuild) return;
  unheard(*core.rebuild, host.value + " was lost before it had said which records there are; ask again");
  if (!is_asked(core)) finish(core);
}

}  // namespace stillpoint::coordinator::rebuild
