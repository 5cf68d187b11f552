#include "node-daemon/store/remote/blob_store_checks.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <random>
#include <thread>

#include "node-daemon/store/memory_files.h"
#include "node-daemon/store/remote/remote_files.h"
#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node::test {
namespace {

using Names = std::vector<std::string>;

void check_put_and_read(BlobStore& store) {
  const std::string bytes = flat_bytes(1, 300'000);
  REQUIRE(store.put("h1/packs/a.pack", MemoryBlob(bytes), {}));
  CHECK(read_all(store, "h1/packs/a.pack").value() == bytes);
  auto file = store.open("h1/packs/a.pack");
  REQUIRE(file.has_value());
  CHECK((*file)->read(100'001, 70'000).value() == bytes.substr(100'001, 70'000));
  CHECK((*file)->read(299'999, 1).value() == bytes.substr(299'999));
  CHECK((*file)->read(300'000, 0).value().empty());
  CHECK((*file)->read(299'999, 2).error().kind == ErrorKind::damaged);
  CHECK((*file)->read(400'000, 1).error().kind == ErrorKind::damaged);

  REQUIRE(store.put("h1/packs/a.pack", MemoryBlob("replaced"), {}));
  CHECK(read_all(store, "h1/packs/a.pack").value() == "replaced");
  REQUIRE(store.put("h1/packs/empty", MemoryBlob(""), {}));
  CHECK(read_all(store, "h1/packs/empty").value().empty());
}

void check_list_and_remove(BlobStore& store) {
  REQUIRE(store.put("h1/images/j7/e12/guest-0.ram", MemoryBlob("image"), {}));
  REQUIRE(store.put("h2/packs/b.pack", MemoryBlob("pack"), {}));
  CHECK(store.list("").value() == Names{"h1", "h2"});
  CHECK(store.list("h1").value() == Names{"images", "packs"});
  CHECK(store.list("h1/packs").value() == Names{"a.pack", "empty"});
  CHECK(store.list("h1/images/j7/e12").value() == Names{"guest-0.ram"});
  CHECK(store.list("h1/pac").value().empty());  // no directory of that name, though names begin so
  CHECK(store.list("h3").value().empty());

  CHECK(store.open("h1/packs/c.pack").error().kind == ErrorKind::not_found);
  CHECK(store.remove("h1/packs/c.pack"));
  CHECK(store.remove("h9/packs/c.pack"));
  for (const char* name : {"h1/packs/a.pack", "h1/packs/empty", "h1/images/j7/e12/guest-0.ram"})
    REQUIRE(store.remove(name));
  CHECK(store.open("h1/packs/a.pack").error().kind == ErrorKind::not_found);
  CHECK(store.list("").value() == Names{"h2"});
  REQUIRE(store.remove("h2/packs/b.pack"));
  CHECK(store.list("").value().empty());
}

void check_refusals(BlobStore& store) {
  for (const char* name : {"", "/", "/etc/passwd", "../x", "h1/../../x", "h1//x", "h1/", ".incoming/x", "h1/.x", "a b",
                           "h1/x.tmp", "h1/x?y"}) {
    CAPTURE(name);
    CHECK(store.put(name, MemoryBlob("x"), {}).error().kind == ErrorKind::refused);
    CHECK(store.open(name).error().kind == ErrorKind::refused);
    CHECK(store.remove(name).error().kind == ErrorKind::refused);
  }
  CHECK(store.list("..").error().kind == ErrorKind::refused);

  // A put that does not get through changes nothing.
  REQUIRE(store.put("h1/x", MemoryBlob("before"), {}));
  std::stop_source stop;
  stop.request_stop();
  CHECK(store.put("h1/x", MemoryBlob("after"), stop.get_token()).error().kind == ErrorKind::refused);
  const WatchedBlob broken("after", [](std::uint64_t) -> Status {
    return Error{ErrorKind::damaged, "read", "the source", "the disk cannot read it"};
  });
  CHECK(store.put("h1/x", broken, {}).error() == broken.read(0, 1).error());
  CHECK(store.put("h1/y", broken, {}).error().kind == ErrorKind::damaged);
  CHECK(read_all(store, "h1/x").value() == "before");
  CHECK(store.list("h1").value() == Names{"x"});
  REQUIRE(store.remove("h1/x"));
}

void check_many_at_once(BlobStore& store) {
  constexpr unsigned kThreads = 4, kEach = 6;
  std::vector<int> wrong(kThreads, 0);
  {
    std::vector<std::jthread> threads;
    for (unsigned t = 0; t < kThreads; ++t)
      threads.emplace_back([&store, &wrong, t] {
        for (unsigned i = 0; i < kEach; ++i) {
          // Each thread fills and empties a directory that the others fill and empty, too.
          const std::string name = "h1/shared/t" + std::to_string(t) + "-" + std::to_string(i);
          const std::string bytes = flat_bytes(t * 100 + i, 5000);
          if (!store.put(name, MemoryBlob(bytes), {})) ++wrong[t];
          if (auto back = read_all(store, name); !back || *back != bytes) ++wrong[t];
          if (i % 2 == 1 && !store.remove(name)) ++wrong[t];
        }
      });
  }
  CHECK(wrong == std::vector<int>(kThreads, 0));
  auto names = store.list("h1/shared");
  REQUIRE(names.has_value());
  CHECK(names->size() == kThreads * kEach / 2);
  CHECK(std::ranges::is_sorted(*names));
  for (const std::string& name : *names) REQUIRE(store.remove("h1/shared/" + name));
}

// All files of a chunk store in memory, by their names in it.
std::map<std::string, std::string> files_of(MemoryFiles& files, const std::filesystem::path& directory) {
  std::map<std::string, std::string> found;
  for (const auto& [path, content] : files.names()) found[path.lexically_relative(directory).string()] = content->bytes;
  return found;
}

Result<std::string> image_through(const std::shared_ptr<BlobStore>& blobs, const std::string& image) {
  RemoteFiles files(blobs);
  ChunkStoreOptions options;
  options.read_only = true;
  auto store = ChunkStore::open(files, "h1", some_keys(), options);
  if (!store) return store.error();
  return get(**store, image);
}

}  // namespace

Result<std::string> read_all(BlobStore& store, const std::string& name) {
  auto file = store.open(name);
  if (!file) return file.error();
  return (*file)->read(0, (*file)->size());
}

void check_blob_store(BlobStore& store) {
  check_put_and_read(store);
  check_list_and_remove(store);
  check_refusals(store);
  check_many_at_once(store);
  CHECK(store.list("").value().empty());
}

void check_chunk_store_in(const std::shared_ptr<BlobStore>& blobs, int damages) {
  const std::string image = "j7/e12/guest-0.ram", disk = "j7/e12/guest-0.disk";
  const std::string stream = TestGuest(5).stream(), flat = flat_bytes(6, 800'000);
  MemoryFiles files;
  ChunkStoreOptions small_packs;
  small_packs.pack_bytes = 1u << 20;
  {
    auto store = ChunkStore::open(files, "/store", some_keys(), small_packs);
    REQUIRE(store.has_value());
    REQUIRE(put(**store, image, ImageKind::memory, stream).has_value());
    REQUIRE(put(**store, disk, ImageKind::flat, flat).has_value());
  }
  const auto content = files_of(files, "/store");
  for (const auto& [name, bytes] : content) REQUIRE(blobs->put("h1/" + name, MemoryBlob(bytes), {}));
  REQUIRE(same_machine(image_through(blobs, image).value(), stream));
  REQUIRE(image_through(blobs, disk).value() == flat);

  std::mt19937_64 random(20'261'122);
  for (const auto& [name, bytes] : content) {
    const std::string where = "h1/" + name;
    for (int i = 0; i < damages; ++i) {
      const std::size_t at = random() % bytes.size();
      CAPTURE(where);
      CAPTURE(at);
      std::string flipped = bytes;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << random() % 8));
      for (const std::string& changed : {flipped, bytes.substr(0, at)}) {
        REQUIRE(blobs->put(where, MemoryBlob(changed), {}));
        const auto ram = image_through(blobs, image), back = image_through(blobs, disk);
        CHECK((!ram || same_machine(*ram, stream)));
        CHECK((!back || *back == flat));
        const bool refused =
            (!ram && ram.error().kind == ErrorKind::damaged) || (!back && back.error().kind == ErrorKind::damaged);
        CHECK(refused);
      }
    }
    REQUIRE(blobs->remove(where));
    CHECK((!image_through(blobs, image) || !image_through(blobs, disk)));
    REQUIRE(blobs->put(where, MemoryBlob(bytes), {}));
  }
  CHECK(same_machine(image_through(blobs, image).value(), stream));
}

}  // namespace stillpoint::node::test
