// How fast QEMU is loaded from the store, against how fast it loads the same stream from a file in a tmpfs. Prints one
// JSON document; asserts nothing. Wants root and scripts/guest-image.
//
//   bench/run store-restore, or store-restore [--directory TMPFS] [--rounds N] [--mib N]
// A real guest of --mib MiB fills its memory, three quarters with what compresses as programs do and a quarter with
// what does not, and is captured. Then it is loaded in turns: from the file; from the store's packs, read ahead as the
// node daemon does; and from there piece by piece without reading ahead. `load` is from the first byte asked for until
// QEMU has the machine whole; `restore` has the start of QEMU's process, too; `read` is the reading alone, by nobody.
#include <sys/mman.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <functional>
#include <iostream>
#include <optional>
#include <thread>

#include "bench/store/bench_tools.h"
#include "node-daemon/domain/vm_fixture.h"
#include "node-daemon/store/chunk_image_store.h"
#include "node-daemon/store/read_ahead.h"

using namespace stillpoint;
using namespace stillpoint::node;
using namespace stillpoint::bench;
using nlohmann::json;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

namespace {

constexpr const char* kImage = "j1/e1/guest-0.ram";

class Sink final : public MemorySink {
 public:
  Sink(ChunkStore& store, const char* image) : store_(store), image_(image) { must(restart()); }
  Status write(std::string_view bytes) override { return ingest_->write(bytes); }
  Status restart() override {
    auto begun = store_.begin(image_, ImageKind::memory);
    if (!begun) return begun.error();
    ingest_ = std::move(*begun);
    return {};
  }
  Result<ImageFigures> commit() { return ingest_->commit(); }

 private:
  ChunkStore& store_;
  const char* const image_;
  std::unique_ptr<ImageIngest> ingest_;
};

class FileReader final : public ImageReader {
 public:
  explicit FileReader(const fs::path& path) : file_(must(system_files().open(path))) {}
  Result<std::string> read() override {
    const std::uint64_t count = std::min<std::uint64_t>(1u << 20, file_->size() - at_);
    at_ += count;
    return file_->read(at_ - count, count);
  }

 private:
  const std::shared_ptr<const ReadableFile> file_;
  std::uint64_t at_ = 0;
};

class StoreReader final : public ImageReader {
 public:
  explicit StoreReader(ChunkStore& store) : source_(must(store.read(kImage))) {}
  Result<std::string> read() override { return source_->read(); }

 private:
  const std::unique_ptr<ImageSource> source_;
};

// Where this machine is a guest itself, its memory comes from a hypervisor, which takes back what is free for a second
// or two and is slow to give it again. This much is kept in hand until the load begins, and free for QEMU then: all
// ways have it equally soon.
class MemoryInHand {
 public:
  explicit MemoryInHand(std::size_t bytes) : bytes_(bytes) {
    memory_ = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory_ == MAP_FAILED) must(errno_error("mmap", "memory", errno));
  }
  MemoryInHand(const MemoryInHand&) = delete;
  MemoryInHand& operator=(const MemoryInHand&) = delete;
  ~MemoryInHand() { give(); }
  void give() {
    if (memory_ != MAP_FAILED) ::munmap(memory_, bytes_);
    memory_ = MAP_FAILED;
  }

 private:
  const std::size_t bytes_;
  void* memory_ = MAP_FAILED;
};

class Source final : public MemorySource {
 public:
  Source(ImageReader& reader, MemoryInHand& memory) : reader_(reader), memory_(memory) {}
  Result<std::string> read() override {
    if (!first_) {
      memory_.give();
      first_ = Clock::now();
    }
    return reader_.read();
  }
  Clock::time_point first() const { return *first_; }

 private:
  ImageReader& reader_;
  MemoryInHand& memory_;
  std::optional<Clock::time_point> first_;
};

struct Captured {
  std::string xml;
  ImageFigures figures;
};

Captured capture(test::Machines& machines, ChunkStore& store, std::size_t mib) {
  machines.make_disk("d1.qcow2");
  DomainSpec spec = machines.spec(1, "d1.qcow2");
  spec.memory_bytes = std::uint64_t{mib} << 20;
  must(machines.driver().start(spec));
  {
    test::Guest guest(machines.driver(), spec.id);
    const std::size_t bytes = (mib << 20) / 10 * 7;
    const auto deadline = std::chrono::seconds(600);
    for (const std::string& question :
         {"programs " + std::to_string(bytes / 4 * 3), "fill " + std::to_string(bytes / 4)})
      if (const std::string answer = guest.ask(question, deadline); answer.empty() || answer == "what")
        must(Status(Error{ErrorKind::deadline, "fill the guest's memory", question, "no answer"}));
  }
  Sink sink(store, kImage);
  CaptureNow now;
  must(machines.driver().capture(spec.id, machines.directory() / "layer1", sink, now));
  Captured captured{must(machines.driver().describe(spec.id)), must(sink.commit())};
  must(machines.driver().destroy(spec.id));
  return captured;
}

struct Way {
  const char* name;
  std::function<std::unique_ptr<ImageReader>()> open;
  std::vector<double> load, restore, read;  // seconds
};

class Bench {
 public:
  Bench(test::Machines& machines, Captured captured, std::size_t mib)
      : machines_(machines), captured_(std::move(captured)), mib_(mib) {}

  void load(Way& way) {
    const std::string disk = "r" + std::to_string(++incarnation_) + ".qcow2";
    machines_.make_disk(disk);
    DomainSpec spec = machines_.spec(incarnation_, disk);
    spec.memory_bytes = std::uint64_t{mib_} << 20;
    MemoryInHand memory((mib_ << 20) / 4 * 5);
    const auto begin = Clock::now();
    const auto reader = way.open();
    Source source(*reader, memory);
    must(machines_.driver().restore(spec, captured_.xml, source));
    const auto end = Clock::now();
    way.load.push_back(std::chrono::duration<double>(end - source.first()).count());
    way.restore.push_back(std::chrono::duration<double>(end - begin).count());
    must(machines_.driver().destroy(spec.id));
    const auto reading = Clock::now();
    const auto all = way.open();
    while (!must(all->read()).empty()) {}
    way.read.push_back(std::chrono::duration<double>(Clock::now() - reading).count());
  }

 private:
  test::Machines& machines_;
  const Captured captured_;
  const std::size_t mib_;
  unsigned incarnation_ = 1;
};

void write_stream(ChunkStore& store, const fs::path& path) {
  StoreReader reader(store);
  std::ofstream out(path, std::ios::binary);
  for (;;) {
    const std::string piece = must(reader.read());
    if (piece.empty()) break;
    out << piece;
  }
  if (!out.flush()) must(errno_error("write", path.string(), errno));
}

json document_of(const std::vector<Way>& ways, std::uint64_t bytes) {
  json document;
  for (const Way& way : ways) {
    std::vector<double> speed;
    for (const double seconds : way.load) speed.push_back(static_cast<double>(bytes) / seconds / 1e6);
    document[way.name] = {{"load_seconds", spread(way.load)},
                          {"restore_seconds", spread(way.restore)},
                          {"read_seconds", spread(way.read)},
                          {"load_mb_per_s", spread(speed)}};
    if (&way != &ways[0]) document[way.name]["speed_to_file"] = ratios(ways[0].load, way.load);
  }
  return document;
}

}  // namespace

int main(int argc, char** argv) {
  fs::path directory = "/dev/shm";
  std::size_t rounds = 5, mib = 1024;
  int level = ChunkStoreOptions().level;
  CLI::App app{"Speed of a restore into QEMU"};
  app.add_option("--directory", directory, "where store and stream are; a tmpfs, or its disk is measured too");
  app.add_option("--rounds", rounds)->check(CLI::Range(1, 1000));
  app.add_option("--mib", mib, "of the guest's memory")->check(CLI::Range(256, 4096));
  app.add_option("--level", level, "of zstd")->check(CLI::Range(kLeastLevel, kMostLevel));
  CLI11_PARSE(app, argc, argv);

  Place place(directory);
  if (const std::string problem = test::enter_own_network(); !problem.empty())
    must(Status(Error{ErrorKind::permanent, "prepare network", "", problem}));
  test::Machines machines;
  if (!machines.problem().empty()) must(Status(Error{ErrorKind::permanent, "prepare guest", "", machines.problem()}));
  ChunkStoreOptions options;
  options.unpack_threads = std::make_shared<UnpackThreads>(unpack_threads());  // as the node daemon's
  options.level = level;
  auto store = place.new_store(options);
  const Captured captured = capture(machines, *store, mib);
  const fs::path file = place.path() / "stream";
  write_stream(*store, file);

  std::vector<Way> ways;
  ways.push_back({"file", [&] { return std::make_unique<FileReader>(file); }, {}, {}, {}});
  ways.push_back({"store", [&] { return read_ahead(std::make_unique<StoreReader>(*store)); }, {}, {}, {}});
  ways.push_back({"store_without_reading_ahead", [&] { return std::make_unique<StoreReader>(*store); }, {}, {}, {}});
  Bench bench(machines, captured, mib);
  for (std::size_t round = 0; round < rounds; ++round)
    for (Way& way : ways) bench.load(way);

  json document = document_of(ways, fs::file_size(file));
  document["benchmark"] = "store-restore";
  document["image"] = figures_of(captured.figures);
  document["setup"] = {{"rounds", rounds},
                       {"memory_mib", mib},
                       {"level", level},
                       {"load_average", load_average()},
                       {"cores", std::thread::hardware_concurrency()}};
  std::cout << document.dump(2) << "\n";
}
