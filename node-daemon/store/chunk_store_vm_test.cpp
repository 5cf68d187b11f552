// The chunk store between real QEMU machines: what was taken apart and put together again is what QEMU loads, from any
// epoch. Label "vm": wants scripts/guest-image.
#include "common/file.h"
#include "node-daemon/domain/vm_checks.h"
#include "node-daemon/store/chunk_store.h"

using namespace stillpoint;
using namespace stillpoint::node;
using namespace stillpoint::node::test;
namespace fs = std::filesystem;

namespace {

const std::string network_problem = enter_own_network();

class IngestSink final : public MemorySink {
 public:
  IngestSink(ChunkStore& store, std::string name) : store_(store), name_(std::move(name)) {}
  Status write(std::string_view bytes) override { return ingest_->write(bytes); }
  Status restart() override {
    auto begun = store_.begin(name_, ImageKind::memory);
    if (!begun) return begun.error();
    ingest_ = std::move(*begun);
    return {};
  }
  Result<ImageFigures> commit() { return ingest_->commit(); }

 private:
  ChunkStore& store_;
  const std::string name_;
  std::unique_ptr<ImageIngest> ingest_;
};

class StoreSource final : public MemorySource {
 public:
  explicit StoreSource(ImageSource& source) : source_(source) {}
  Result<std::string> read() override { return source_.read(); }

 private:
  ImageSource& source_;
};

struct Checkpoint {
  std::string name, xml, journal, sum;
  long counted = 0;
};

// Memory straight from QEMU's pipe, the disk as a file.
Checkpoint take(Machines& machines, ChunkStore& store, const DomainId& id, Guest& guest, unsigned epoch) {
  DomainDriver& driver = machines.driver();
  Checkpoint taken{"j1/e" + std::to_string(epoch) + "/guest-0", "", guest.ask("journal"), guest.ask("sum"), 0};
  REQUIRE(guest.ask("freeze") == "done");
  taken.counted = guest.count();
  auto chain = driver.disk_chain(id);
  REQUIRE_OK(chain);
  IngestSink sink(store, taken.name + ".ram");
  REQUIRE_OK(sink.restart());
  CaptureNow now;
  REQUIRE_OK(driver.capture(id, machines.directory() / ("layer" + std::to_string(epoch)), sink, now));
  REQUIRE(guest.ask("thaw") == "done");
  const auto figures = sink.commit();
  REQUIRE_OK(figures);
  auto xml = driver.describe(id);
  REQUIRE_OK(xml);
  taken.xml = *xml;

  const fs::path flat = machines.copy_disk(chain->front(), "copy" + std::to_string(epoch));
  const auto bytes = read_file(flat, std::size_t{1} << 30);
  REQUIRE_OK(bytes);
  auto disk = store.begin(taken.name + ".disk", ImageKind::flat);
  REQUIRE_OK(disk);
  REQUIRE_OK((*disk)->write(*bytes));
  const auto disk_figures = (*disk)->commit();
  REQUIRE_OK(disk_figures);
  MESSAGE("epoch ", epoch, ": ", figures->raw_bytes >> 20, " MiB in ", figures->pages, " pages, ", figures->zero_pages,
          " of zeros, ", figures->new_pages, " new, ", figures->stored_bytes >> 10, " KiB stored; disk ",
          disk_figures->raw_bytes >> 10, " KiB, ", disk_figures->new_pages, " pages new");
  return taken;
}

void bring_back(Machines& machines, ChunkStore& store, const Checkpoint& checkpoint, unsigned incarnation) {
  const std::string disk_name = "r" + std::to_string(incarnation) + ".qcow2";
  auto disk = store.read(checkpoint.name + ".disk");
  REQUIRE_OK(disk);
  std::string bytes;
  for (;;) {
    auto piece = (*disk)->read();
    REQUIRE_OK(piece);
    if (piece->empty()) break;
    bytes += *piece;
  }
  REQUIRE_OK(publish_file(machines.directory() / disk_name, bytes));
  auto memory = store.read(checkpoint.name + ".ram");
  REQUIRE_OK(memory);
  StoreSource source(**memory);
  const DomainSpec spec = machines.spec(incarnation, disk_name);
  REQUIRE_OK(machines.driver().restore(spec, checkpoint.xml, source));
  REQUIRE_OK(machines.driver().resume(spec.id));
  Guest restored(machines.driver(), spec.id);
  REQUIRE(restored.ask("thaw") == "done");
  CHECK(restored.count() >= checkpoint.counted);
  CHECK(restored.ask("journal") == checkpoint.journal);
  CHECK(restored.ask("sum") == checkpoint.sum);
  REQUIRE_OK(machines.driver().destroy(spec.id));
}

}  // namespace

TEST_CASE("a machine comes back from the chunk store as it was at each of its epochs") {
  Machines machines;
  require_machines(machines, network_problem);
  auto keys = load_site_keys(machines.directory() / "store.keys");
  REQUIRE_OK(keys);
  auto store = ChunkStore::open(system_files(), machines.directory() / "chunks", *keys);
  REQUIRE_OK(store);
  DomainDriver& driver = machines.driver();
  machines.make_disk("d1.qcow2");
  const DomainSpec spec = machines.spec(1, "d1.qcow2");
  REQUIRE_OK(driver.start(spec));
  std::vector<Checkpoint> taken;
  {
    Guest guest(driver, spec.id);
    for (unsigned epoch = 1; epoch <= 4; ++epoch) {
      REQUIRE(guest.ask("fill " + std::to_string(epoch * 1'000'000)).size() >= 32);
      REQUIRE(guest.ask("put word" + std::to_string(epoch)) == "done");
      taken.push_back(take(machines, **store, spec.id, guest, epoch));
    }
  }
  REQUIRE_OK(driver.destroy(spec.id));
  CHECK(taken[0].sum != taken[3].sum);
  bring_back(machines, **store, taken[0], 2);
  bring_back(machines, **store, taken[2], 3);
  // The others go: the last one does not need them.
  for (const char* gone : {"j1/e1/", "j1/e2/", "j1/e3/"}) REQUIRE_OK((*store)->remove(gone));
  const auto collected = (*store)->collect();
  REQUIRE_OK(collected);
  MESSAGE("collection: ", collected->bytes_before >> 10, " KiB before, ", collected->bytes_after >> 10, " KiB after");
  bring_back(machines, **store, taken[3], 4);
  const auto report = (*store)->verify();
  REQUIRE_OK(report);
  CHECK(report->problems.empty());
}
