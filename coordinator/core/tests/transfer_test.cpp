// Checkpoints that leave, and those that come: what is refused, and that nothing is left of what did not come whole.
#include <doctest/doctest.h>

#include "coordinator/core/tests/world.h"

using namespace stillpoint;
using namespace stillpoint::coordinator;
using namespace stillpoint::coordinator::testing;

namespace {

bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

ForeignCheckpoint foreign(std::uint32_t guests = 2) {
  ForeignCheckpoint checkpoint;
  checkpoint.spec = spec(guests);
  checkpoint.spec.name = "foreign";
  checkpoint.epoch = Epoch{40};
  checkpoint.incarnation = Incarnation{3};
  checkpoint.output_bytes = 6;
  for (std::uint32_t guest = 0; guest < guests; ++guest) {
    checkpoint.cut.emplace_back().set_guest(guest);
    auto& image = checkpoint.images.emplace_back();
    image.set_guest(guest);
    image.set_known_as_job("j9");
    image.set_known_as_epoch(40);
    image.set_domain_xml("<domain/>");
  }
  return checkpoint;
}

Result<Answer> begin(World& w, const ForeignCheckpoint& checkpoint) {
  return w.answer(w.ask([&](RequestId r) { return BeginImport{r, checkpoint}; }));
}
JobId begun(World& w, const ForeignCheckpoint& checkpoint = foreign()) {
  const auto answer = begin(w, checkpoint);
  REQUIRE_MESSAGE(answer.has_value(), (answer.has_error() ? answer.error().message() : ""));
  return std::get<ImportBegun>(answer.value()).job;
}
std::string why_not(World& w, const ForeignCheckpoint& checkpoint) {
  const auto answer = begin(w, checkpoint);
  REQUIRE(answer.has_error());
  return answer.error().message();
}

Result<Answer> piece(World& w, const JobId& job, ImagePart part, std::uint32_t guest, std::uint64_t offset,
                     const std::string& data, bool last) {
  return w.answer(w.ask([&](RequestId r) { return ImportPiece{r, job, part, guest, offset, data, last}; }));
}
void bring_all(World& w, const JobId& job, std::uint32_t guests = 2) {
  for (std::uint32_t guest = 0; guest < guests; ++guest)
    for (const auto part : {ImagePart::memory, ImagePart::disk}) {
      REQUIRE(piece(w, job, part, guest, 0, "abc", false).has_value());
      REQUIRE(piece(w, job, part, guest, 3, "", true).has_value());
    }
  REQUIRE(piece(w, job, ImagePart::output, 0, 0, "line 1", false).has_value());
}
Result<Answer> finish(World& w, const JobId& job) {
  return w.answer(w.ask([&](RequestId r) { return FinishImport{r, job}; }));
}

}  // namespace

TEST_CASE("a checkpoint of another site becomes a stopped job with one checkpoint, behind all numbers that it knows") {
  World w(2);
  const JobId id = begun(w);
  CHECK(w.durable.jobs.empty());
  bring_all(w, id);
  CHECK(w.durable.jobs.empty());
  const auto answer = finish(w, id);
  REQUIRE(answer.has_value());
  const auto& imported = std::get<Imported>(answer.value());
  CHECK(imported.job == id);
  CHECK(imported.epoch.epoch == Epoch{40});  // it was free
  CHECK(w.durable.next_epoch == Epoch{41});
  CHECK(w.job(id).state == JobState::stopped);
  CHECK(w.job(id).incarnation == Incarnation{3});
  CHECK(w.job(id).placement.empty());
  const auto& epoch = w.epoch(Epoch{40});
  CHECK(epoch.state == EpochState::committed);
  CHECK(epoch.output_offset == 6);
  REQUIRE(epoch.images.size() == 2);
  CHECK(epoch.images[1].memory().path() == "h2/" + id.value + "/e40/guest-1");
  CHECK(epoch.images[1].memory().copies_size() == 1);
  CHECK(epoch.images[1].domain_xml() == "<domain/>");
  CHECK(epoch.images[1].known_as_job() == "j9");
  CHECK(w.output[id] == "line 1");
  CHECK(w.broken() == "");
}

TEST_CASE("restarted, it has the next incarnation and the addresses of the job that it was") {
  World w(2);
  const JobId own = w.running(spec());
  (void)own;
  const JobId id = begun(w);
  bring_all(w, id);
  REQUIRE(finish(w, id).has_value());
  std::string mac;
  std::uint64_t incarnation = 0;
  w.script.swallow = [&](const HostName&, const wire::ToHost& ask) {
    if (!ask.has_restore() || ask.gang().job() != id.value) return false;
    mac = ask.restore().network().places(1).mac();
    incarnation = ask.gang().incarnation();
    CHECK(ask.restore().images(0).known_as_epoch() == 40);
    return true;
  };
  (void)w.restart(id);
  REQUIRE(w.until([&] { return incarnation != 0; }));
  CHECK(incarnation == 4);
  CHECK(mac == "52:54:00:09:00:01");
}

TEST_CASE("with its number taken it has another one, and later epochs are newer than any that its guests know") {
  World w(2);
  w.durable.next_epoch = Epoch{100};
  w.crash();
  REQUIRE(w.until([&] { return w.core().hosts().size() == 2 && w.core().hosts()[1].connected; }));
  const JobId id = begun(w);
  bring_all(w, id);
  REQUIRE(finish(w, id).has_value());
  CHECK(w.epoch(Epoch{100}).job == id);
  CHECK(w.epoch(Epoch{100}).images[0].known_as_epoch() == 40);
}

TEST_CASE("what could never be restored or kept here is refused at once, with what to do") {
  World w(2);
  const JobId own = w.running(spec());
  auto checkpoint = foreign();
  checkpoint.spec.name = w.job(own).spec.name;
  CHECK(says(why_not(w, checkpoint), "--name"));
  checkpoint = foreign();
  checkpoint.spec.memory_bytes = 1ull << 40;
  CHECK(says(why_not(w, checkpoint), "room"));
  checkpoint = foreign();
  checkpoint.spec.durability = "site";
  CHECK(says(why_not(w, checkpoint), "S3 store"));
  checkpoint = foreign();
  checkpoint.images.pop_back();
  CHECK(says(why_not(w, checkpoint), "one image and one cut"));
  checkpoint = foreign();
  checkpoint.cut[1].set_guest(0);
  CHECK(says(why_not(w, checkpoint), "one image and one cut"));
  checkpoint = foreign();
  checkpoint.epoch = Epoch{1ull << 50};
  CHECK(says(why_not(w, checkpoint), "its numbers"));
  checkpoint = foreign();
  checkpoint.images[1].set_known_as_job("j8");
  CHECK(says(why_not(w, checkpoint), "as one job"));
  for (auto& [name, host] : w.hosts) host.image_free = 100;
  w.run_for(milliseconds(3'000));
  CHECK(says(why_not(w, foreign()), "begins nothing with less"));
  CHECK(w.durable.jobs.size() == 1);
}

TEST_CASE("placement on hosts that this site has not got is forgotten") {
  World w(2);
  auto checkpoint = foreign();
  checkpoint.spec.hosts = {HostName{"node-17"}};
  const JobId id = begun(w, checkpoint);
  bring_all(w, id);
  REQUIRE(finish(w, id).has_value());
  CHECK(w.job(id).spec.hosts.empty());
}

TEST_CASE("not all of it, too much of it, or in another order: refused, and it can still come right") {
  World w(2);
  const JobId id = begun(w);
  REQUIRE(finish(w, id).has_error());
  CHECK(says(piece(w, id, ImagePart::memory, 2, 0, "x", false).error().message(), "no piece of this image"));
  CHECK(says(piece(w, id, ImagePart::output, 0, 1, "x", false).error().message(), "does not follow"));
  CHECK(says(piece(w, id, ImagePart::output, 0, 0, "longer than it said", false).error().message(), "does not follow"));
  bring_all(w, id);
  CHECK(says(piece(w, id, ImagePart::memory, 1, 4, "x", false).error().message(), "no piece of this image"));
  CHECK(finish(w, id).has_value());
  CHECK(says(piece(w, id, ImagePart::memory, 1, 4, "x", false).error().message(), "no such import"));
}

TEST_CASE("given up, refused by a host, or fallen silent: nothing of it is left") {
  World w(2);
  const auto nothing_left = [&](const JobId& id) {
    REQUIRE(w.until([&] { return w.store.images.empty(); }));
    CHECK(w.dropped.contains(id));
    CHECK(w.durable.jobs.empty());
    CHECK(w.durable.epochs.empty());
    CHECK(finish(w, id).error().kind == ErrorKind::not_found);
    CHECK(w.broken() == "");
  };
  JobId id = begun(w);
  bring_all(w, id);
  REQUIRE(w.answer(w.ask([&](RequestId r) { return AbandonImport{r, id}; })).has_value());
  nothing_left(id);

  id = begun(w);
  REQUIRE(piece(w, id, ImagePart::memory, 0, 0, "abc", true).has_value());
  w.script.failure = [](const HostName&, const wire::ToHost& ask) -> std::optional<Error> {
    if (!ask.has_write_image()) return std::nullopt;
    return Error{ErrorKind::storage_full, "write image", "disk", "no space left"};
  };
  CHECK(piece(w, id, ImagePart::disk, 0, 0, "abc", true).error().kind == ErrorKind::storage_full);
  w.script.failure = nullptr;
  nothing_left(id);

  id = begun(w);
  REQUIRE(piece(w, id, ImagePart::memory, 0, 0, "abc", true).has_value());
  w.run_for(milliseconds(120'000));
  nothing_left(id);

  id = begun(w);
  bring_all(w, id);
  w.script.swallow = [](const HostName&, const wire::ToHost& ask) { return ask.has_keep_images(); };
  CHECK(finish(w, id).error().kind == ErrorKind::deadline);
  w.script.swallow = nullptr;
  nothing_left(id);
}

TEST_CASE("the coordinator ends in an import: the next one has never heard of it, and what hosts hold of it goes") {
  World w(2);
  const JobId id = begun(w);
  bring_all(w, id);
  REQUIRE(!w.store.images.empty());
  const auto held = [&] {
    wire::FromHost message;
    auto& job = *message.mutable_held()->add_jobs();
    job.set_job(id.value);
    job.add_epochs(40);
    for (const auto& [name, host] : w.hosts) w.say(name, message);
    w.run_for(milliseconds(2'000));
  };
  held();  // a session that comes back while the import is under way
  CHECK(w.store.images.size() == 2);
  w.crash();
  REQUIRE(w.until([&] { return w.core().hosts().size() == 2 && w.core().hosts()[1].connected; }));
  CHECK(w.durable.jobs.empty());
  held();
  CHECK(w.store.images.empty());
  CHECK(w.durable.next_epoch > Epoch{40});
  CHECK(w.broken() == "");
}

TEST_CASE("a session that is lost in an import is made up for") {
  World w(2);
  const JobId id = begun(w);
  w.script.swallow = [lost = 0](const HostName&, const wire::ToHost& ask) mutable {
    return ask.has_write_image() && lost++ == 0;
  };
  const auto request = w.ask([&](RequestId r) { return ImportPiece{r, id, ImagePart::memory, 0, 0, "abc", true}; });
  w.run_for(milliseconds(1'000));
  w.drop_session(HostName{"h1"});
  w.drop_session(HostName{"h2"});
  w.connect(HostName{"h1"});
  w.connect(HostName{"h2"});
  CHECK(w.answer(request).has_value());
}

TEST_CASE("what an export reads is not pruned before it has been quiet for a while") {
  World w(2);
  auto job = spec();
  job.keep = 1;
  const JobId id = w.running(job);
  const Epoch first = w.committed(id);
  REQUIRE(w.answer(w.ask([&](RequestId r) { return ExportPiece{r, id, first, ImagePart::memory, 0, 0}; })).has_value());
  w.committed(id);
  CHECK(w.epoch(first).state == EpochState::committed);
  CHECK(w.answer(w.ask([&](RequestId r) { return ExportPiece{r, id, first, ImagePart::disk, 1, 0}; })).has_value());
  w.run_for(milliseconds(91'000));
  w.committed(id);
  CHECK(w.epoch(first).state == EpochState::pruned);
  CHECK(w.broken() == "");
}

TEST_CASE("an export reads a committed checkpoint's images from a host that has them") {
  World w(3);
  const JobId id = w.running(spec());
  const Epoch number = w.committed(id);
  const auto read = [&](Epoch epoch, ImagePart part, std::uint32_t guest, std::uint64_t offset) {
    return w.answer(w.ask([&](RequestId r) { return ExportPiece{r, id, epoch, part, guest, offset}; }));
  };
  const auto first = read(number, ImagePart::memory, 1, 0);
  REQUIRE(first.has_value());
  CHECK_FALSE(std::get<PieceRead>(first.value()).last);
  const auto second = read(number, ImagePart::memory, 1, 3);
  REQUIRE(second.has_value());
  CHECK(std::get<PieceRead>(second.value()).last);
  CHECK(std::get<PieceRead>(first.value()).data + std::get<PieceRead>(second.value()).data ==
        w.epoch(number).images[1].memory().path());
  CHECK(read(number, ImagePart::memory, 2, 0).error().kind == ErrorKind::not_found);
  CHECK(read(Epoch{99}, ImagePart::memory, 0, 0).error().kind == ErrorKind::not_found);
  w.script.swallow = [](const HostName&, const wire::ToHost& ask) { return ask.has_read_image(); };
  CHECK(read(number, ImagePart::disk, 0, 0).error().kind == ErrorKind::deadline);
  CHECK(w.broken() == "");
}
