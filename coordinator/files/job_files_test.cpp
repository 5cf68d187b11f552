#include "coordinator/files/job_files.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <condition_variable>
#include <fstream>
#include <future>

using namespace stillpoint;
using namespace stillpoint::coordinator;
namespace fs = std::filesystem;

namespace {

struct Fixture {
  fs::path directory;
  std::unique_ptr<Spools> spools;
  std::unique_ptr<JobFiles> files;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Event> told;

  Fixture() {
    std::string name = (fs::temp_directory_path() / "stillpoint-files-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    directory = name;
    begin();
  }
  ~Fixture() {
    files.reset();
    fs::remove_all(directory);
  }
  void begin(std::size_t queue_bytes = 64u << 20, const std::set<JobId>& jobs = {JobId{"j1"}}) {
    files.reset();
    spools = std::make_unique<Spools>(directory / "spool");
    REQUIRE(spools->open({}).has_value());
    files = std::make_unique<JobFiles>(directory / "jobs", *spools, queue_bytes);
    REQUIRE(files->open(jobs).has_value());
    told.clear();
    files->start([this](Event event) {
      std::lock_guard lock(mutex);
      told.push_back(std::move(event));
      changed.notify_all();
    });
  }
  // Everything ordered before is done when it returns.
  void settle() {
    std::promise<void> done;
    files->push([&done] { done.set_value(); });
    done.get_future().wait();
  }
  void append(std::uint64_t offset, const std::string& data) {
    files->push(AppendOutput{JobId{"j1"}, offset, data});
    settle();
  }
  template <class Kind>
  Kind last() {
    std::lock_guard lock(mutex);
    REQUIRE_FALSE(told.empty());
    const auto* event = std::get_if<Kind>(&told.back());
    REQUIRE(event != nullptr);
    return *event;
  }
  std::string output() {
    auto part = files->read_output(JobId{"j1"}, 0, 1u << 20);
    REQUIRE(part.has_value());
    return part->data;
  }
};

}  // namespace

TEST_CASE("output is appended once, whatever is sent again, and told when it is durable") {
  Fixture f;
  f.append(0, "hello ");
  CHECK(f.last<OutputDurable>().offset == 6);
  f.append(0, "hello ");
  CHECK(f.last<OutputDurable>().offset == 6);
  f.append(3, "lo world");
  CHECK(f.last<OutputDurable>().offset == 11);
  CHECK(f.output() == "hello world");
  auto part = f.files->read_output(JobId{"j1"}, 6, 3);
  REQUIRE(part.has_value());
  CHECK(part->data == "wor");
  CHECK(part->length == 11);
  part = f.files->read_output(JobId{"j1"}, 99, 3);
  REQUIRE(part.has_value());
  CHECK(part->data.empty());
}

TEST_CASE("a gap in the output is an error, never filled with nothing") {
  Fixture f;
  f.append(0, "abc");
  f.files->push(AppendOutput{JobId{"j1"}, 5, "xyz"});
  f.settle();
  std::lock_guard lock(f.mutex);
  CHECK(std::any_of(f.told.begin(), f.told.end(),
                    [](const Event& e) { return std::holds_alternative<OutputFailed>(e); }));
}

TEST_CASE("output is cut back and goes on from there; cutting never makes it longer") {
  Fixture f;
  f.append(0, "0123456789");
  f.files->push(TruncateOutput{JobId{"j1"}, 4, Epoch{1}, 7});
  f.settle();
  CHECK(f.last<OutputDurable>().offset == 4);
  CHECK(f.output() == "0123");
  f.files->push(TruncateOutput{JobId{"j1"}, 100, Epoch{1}, 7});
  f.settle();
  CHECK(f.last<OutputDurable>().offset == 4);
  f.append(4, "four");
  CHECK(f.output() == "0123four");
}

TEST_CASE("an epoch keeps the output of its history, whatever a restart made of it since") {
  Fixture f;
  f.append(0, "0123");
  f.files->push(KeepOutput{JobId{"j1"}, Epoch{1}});
  f.append(4, "4567");
  f.files->push(KeepOutput{JobId{"j1"}, Epoch{2}});
  f.append(8, "89");
  f.files->push(TruncateOutput{JobId{"j1"}, 4, Epoch{1}, 7});
  f.append(4, "other");
  CHECK(f.output() == "0123other");
  f.files->push(TruncateOutput{JobId{"j1"}, 9, Epoch{2}, 7});
  f.settle();
  CHECK(f.last<OutputDurable>().cut == 7);
  CHECK(f.output() == "012345678");
}

TEST_CASE("what an epoch kept is dropped with it, and the stream itself stays") {
  Fixture f;
  f.append(0, "0123");
  f.files->push(KeepOutput{JobId{"j1"}, Epoch{1}});
  f.files->push(KeepOutput{JobId{"j1"}, Epoch{2}});
  f.files->push(DropOutput{JobId{"j1"}, Epoch{1}});
  f.files->push(DropOutput{JobId{"j1"}, Epoch{1}});
  f.files->push(DropOutput{JobId{"j9"}, Epoch{1}});
  f.settle();
  CHECK_FALSE(fs::exists(f.directory / "jobs" / "j1" / "output.e1"));
  CHECK(fs::exists(f.directory / "jobs" / "j1" / "output.e2"));
  CHECK(f.output() == "0123");
}

TEST_CASE("a long output is cut back whole") {
  Fixture f;
  std::string text;
  while (text.size() < 5u << 20) text += "line " + std::to_string(text.size()) + "\n";
  f.append(0, text);
  f.files->push(KeepOutput{JobId{"j1"}, Epoch{1}});
  f.files->push(TruncateOutput{JobId{"j1"}, text.size() - 7, Epoch{1}, 7});
  f.settle();
  auto part = f.files->read_output(JobId{"j1"}, 0, text.size());
  REQUIRE(part.has_value());
  CHECK(part->length == text.size() - 7);
  CHECK(part->data == text.substr(0, text.size() - 7));
}

TEST_CASE("what is stored is measured after a new start") {
  Fixture f;
  f.append(0, "0123456789");
  f.begin();
  CHECK(f.files->output_length(JobId{"j1"}) == 10);
  CHECK(f.files->output_length(JobId{"j2"}) == 0);
  f.files->push(MeasureOutput{JobId{"j1"}});
  f.settle();
  CHECK(f.last<OutputDurable>().offset == 10);
  f.files->push(MeasureOutput{JobId{"j1"}});
  f.settle();
  f.begin(64u << 20, {});  // the job is gone from the catalog: so are its files
  CHECK(fs::is_empty(f.directory / "jobs"));
  f.files->push(MeasureOutput{JobId{"j1"}});
  f.settle();
  CHECK(f.last<OutputDurable>().offset == 0);
}

TEST_CASE("a full queue makes its feeder wait, and loses nothing") {
  Fixture f;
  f.begin(4096);
  for (std::uint64_t i = 0; i < 500; ++i) f.files->push(AppendOutput{JobId{"j1"}, i * 100, std::string(100, 'x')});
  f.settle();
  CHECK(f.last<OutputDurable>().offset == 50'000);
}

TEST_CASE("an output that is no regular file is not written to") {
  Fixture f;
  f.append(0, "abc");
  fs::remove(f.directory / "jobs" / "j1" / "output");
  fs::create_symlink("/dev/full", f.directory / "jobs" / "j1" / "output");
  f.files->push(AppendOutput{JobId{"j1"}, 3, "def"});
  f.settle();
  CHECK(f.last<OutputFailed>().job == JobId{"j1"});
}

TEST_CASE("output files arrive whole under their names") {
  Fixture f;
  const JobId job{"j1"};
  f.files->push(StoreOutputPiece{job, "out/a.txt", 0, "first ", false});
  f.settle();
  auto list = f.files->outputs(job);
  REQUIRE(list.has_value());
  CHECK(list->empty());
  f.files->push(StoreOutputPiece{job, "out/a.txt", 6, "second", true});
  f.files->push(StoreOutputPiece{job, "b", 0, "", true});
  f.settle();
  list = f.files->outputs(job);
  REQUIRE(list.has_value());
  REQUIRE(list->size() == 2);
  CHECK((*list)[0].name == "b");
  CHECK((*list)[1].name == "out/a.txt");
  CHECK((*list)[1].size == 12);
  CHECK(f.files->open_output(job, "out/a.txt").has_value());
  CHECK(f.files->open_output(job, "out").has_error());
  CHECK(f.files->open_output(job, "../output").has_error());
}

TEST_CASE("a piece that does not follow the one before is refused, and the file dropped") {
  Fixture f;
  const JobId job{"j1"};
  f.files->push(StoreOutputPiece{job, "a", 0, "first ", false});
  f.settle();
  CHECK(f.last<OutputPieceStored>().file == "a");
  CHECK_FALSE(f.last<OutputPieceStored>().error.has_value());
  f.files->push(StoreOutputPiece{job, "a", 9, "third", true});
  f.settle();
  CHECK(f.last<OutputPieceStored>().offset == 9);
  REQUIRE(f.last<OutputPieceStored>().error.has_value());
  CHECK(f.last<OutputPieceStored>().error->kind == ErrorKind::refused);
  CHECK(fs::is_empty(f.directory / "jobs" / "j1" / "partial"));
  f.files->push(StoreOutputPiece{job, "a", 6, "second", true});
  f.settle();
  CHECK(f.last<OutputPieceStored>().error.has_value());
  CHECK(f.files->outputs(job)->empty());
}

TEST_CASE("pieces of a file that will not become whole are dropped") {
  Fixture f;
  f.files->push(StoreOutputPiece{JobId{"j1"}, "dir/a", 0, "first ", false});
  f.files->push(DropOutputPieces{JobId{"j1"}, "dir/a"});
  f.files->push(DropOutputPieces{JobId{"j1"}, "none/of/it"});
  f.settle();
  CHECK(fs::is_empty(f.directory / "jobs" / "j1" / "partial" / "dir"));
}

TEST_CASE("names from hosts stay below the job's directory") {
  Fixture f;
  for (const char* name : {"../x", "/etc/x", "a/../../x", "", "."})
    f.files->push(StoreOutputPiece{JobId{"j1"}, name, 0, "x", true});
  f.files->push(StoreOutputPiece{JobId{"../../j9"}, "x", 0, "x", true});
  f.files->push(AppendOutput{JobId{".."}, 0, "x"});
  f.settle();
  CHECK_FALSE(fs::exists(f.directory / "x"));
  CHECK_FALSE(fs::exists(f.directory / "output"));
  auto list = f.files->outputs(JobId{"j1"});
  REQUIRE(list.has_value());
  CHECK(list->empty());
}

TEST_CASE("input files are read in pieces; one that is not there is a failure in words") {
  Fixture f;
  auto id = f.spools->create();
  REQUIRE(id.has_value());
  auto upload = f.spools->begin(*id, "dir/prog");
  REQUIRE(upload.has_value());
  REQUIRE((*upload)->write("0123456789").has_value());
  REQUIRE((*upload)->commit(0755).has_value());
  upload->reset();
  f.files->push(ReadSpool{JobId{"j1"}, *id, "dir/prog", 0, 6});
  f.settle();
  auto read = f.last<SpoolRead>();
  CHECK(read.data == "012345");
  CHECK_FALSE(read.last);
  CHECK(read.mode == 0755);
  f.files->push(ReadSpool{JobId{"j1"}, *id, "dir/prog", 6, 6});
  f.settle();
  read = f.last<SpoolRead>();
  CHECK(read.data == "6789");
  CHECK(read.last);
  f.files->push(ReadSpool{JobId{"j1"}, *id, "none", 0, 6});
  f.settle();
  read = f.last<SpoolRead>();
  CHECK(read.failed);
  CHECK(read.error.kind == ErrorKind::not_found);
}

TEST_CASE("a removed job leaves no file") {
  Fixture f;
  auto id = f.spools->create();
  REQUIRE(id.has_value());
  f.append(0, "abc");
  f.files->push(StoreOutputPiece{JobId{"j1"}, "a", 0, "x", true});
  f.files->push(DropJobFiles{JobId{"j1"}, *id});
  f.settle();
  CHECK(fs::is_empty(f.directory / "jobs"));
  CHECK(fs::is_empty(f.directory / "spool"));
  CHECK(f.files->output_length(JobId{"j1"}) == 0);
}

TEST_CASE("a removal that was cut short is ended at the next start") {
  Fixture f;
  fs::create_directories(f.directory / "jobs" / ".gone-j7" / "outputs");
  f.begin();
  CHECK(fs::is_empty(f.directory / "jobs"));
}
