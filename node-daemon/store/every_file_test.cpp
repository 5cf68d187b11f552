// Every kind of file that the stores of a site have, damaged at random places: hosts that start anew restore what was
// stored, or say what is wrong; never other bytes. What has a copy elsewhere, verify puts right.
//
// STILLPOINT_SEED chooses the places again; names and bytes of packs are random all the same.
#include <doctest/doctest.h>
#include <stdlib.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <regex>
#include <set>

#include "common/file.h"
#include "node-daemon/store/chunk_image_store.h"
#include "node-daemon/store/remote/local_blobs.h"
#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;
using test::flat_bytes;
using test::TestGuest;

enum class Kind { keys, directory_id, key_ids, lock, pack, list, record, bad_blocks, s3_pack, s3_list, s3_record };

struct KindOfFile {
  Kind kind;
  std::string path;                  // below the test's site
  std::vector<std::string> in_docs;  // as docs/store-format.md names it
};

const std::vector<KindOfFile>& kinds() {
  static const std::string images = "(h[123]|shared)/", dir = images + "hosts/h[123]/", s3 = "s3/h[123]/";
  static const std::string pack = "packs/[0-9a-f]{32}\\.pack", record = "records/j[0-9]+/e[0-9]+",
                           list = "images/j[0-9]+/e[0-9]+/guest-[0-9]+\\.(ram|disk)";
  static const std::string in_s3 = "s3://BUCKET/PREFIX/HOST/";
  static const std::vector<KindOfFile> all{
      {Kind::keys, "store\\.keys", {"KEYS"}},
      {Kind::directory_id, images + "id", {"IMAGES/id"}},
      {Kind::key_ids, images + "key-ids", {"IMAGES/key-ids"}},
      {Kind::lock, dir + "lock", {"IMAGES/hosts/HOST/lock"}},
      {Kind::pack, dir + pack, {"DIR/packs/ID.pack"}},
      {Kind::list, dir + list, {"DIR/images/JOB/eEPOCH/guest-G.ram", "DIR/images/JOB/eEPOCH/guest-G.disk"}},
      {Kind::record, dir + record, {"DIR/records/JOB/eEPOCH"}},
      {Kind::bad_blocks, dir + "bad-blocks", {"DIR/bad-blocks"}},
      {Kind::s3_pack, s3 + pack, {in_s3 + "packs/ID.pack"}},
      {Kind::s3_list, s3 + list, {in_s3 + "images/JOB/eEPOCH/guest-G.ram"}},
      {Kind::s3_record, s3 + record, {in_s3 + "records/JOB/eEPOCH"}},
  };
  return all;
}
// What the document names besides: no file that stays.
const std::set<std::string> kNotKept{"IMAGES/hosts/HOST/", "*.tmp", "s3://BUCKET/PREFIX/probe-ID"};

const KindOfFile* kind_of(const std::string& path) {
  const auto found = std::ranges::find_if(
      kinds(), [&](const KindOfFile& kind) { return std::regex_match(path, std::regex(kind.path)); });
  return found == kinds().end() ? nullptr : &*found;
}

TEST_CASE("the kinds of files that are damaged here are those of docs/store-format.md") {
  std::set<std::string> known = kNotKept, named;
  for (const KindOfFile& kind : kinds()) known.insert(kind.in_docs.begin(), kind.in_docs.end());
  std::ifstream document(STILLPOINT_SOURCE_DIR "/docs/store-format.md");
  bool is_list = false;
  for (std::string line; std::getline(document, line);) {
    if (line == "```") is_list = !is_list;
    else if (is_list) named.insert(line.substr(0, line.find(' ')));
  }
  for (const std::string& name : named) CHECK_MESSAGE(known.contains(name), name, " is only in the document");
  for (const std::string& name : known) CHECK_MESSAGE(named.contains(name), name, " is only here");
}

// A host as others reach it (peer_server.h).
class Neighbour final : public BlobStore {
 public:
  Neighbour(HostName from, SiteImageStore& at) : from_(std::move(from)), at_(at) {}
  const std::string& where() const override { return where_; }
  Status put(const std::string& name, const ReadableFile& content, std::stop_token) override {
    auto file = at_.mirrors().begin(from_, name.substr(name.find('/') + 1), content.size());
    if (!file) return file.error();
    auto bytes = content.read(0, static_cast<std::size_t>(content.size()));
    if (!bytes) return bytes.error();
    if (auto written = (*file)->write(*bytes); !written) return written;
    return (*file)->commit();
  }
  Result<std::shared_ptr<const ReadableFile>> open(const std::string& name) override {
    return system_files().open(at_.hosts() / name);
  }
  Result<std::vector<std::string>> list(const std::string& name) override {
    return system_files().list(at_.hosts() / name);
  }
  Status remove(const std::string& name) override { return Error{ErrorKind::refused, "remove", name, "not there"}; }

 private:
  const HostName from_;
  SiteImageStore& at_;
  const std::string where_ = "the neighbour";
};

using Names = std::vector<std::string>;

// The hosts of a site, as they come up: h1 and h2 have stored something, h3 has not.
class Hosts {
 public:
  Hosts(fs::path site, bool is_shared) : site_(std::move(site)), is_shared_(is_shared) {
    auto made = LocalBlobs::make(system_files(), site_ / "s3", "the S3 store");
    REQUIRE_MESSAGE(made.has_value(), made.error());
    s3_ = std::move(*made);
  }
  // Of the first one that refuses to start.
  Status start() {
    for (const std::string name : {"h1", "h2", "h3"}) {
      ImageStoreOptions options;
      options.own = !is_shared_;
      options.connect = [this, name](const wire::StorePeer& peer) {
        return std::make_shared<Neighbour>(HostName{name}, *stores_.at(peer.host()));
      };
      options.object_store = s3_;
      auto store = open_chunk_image_store(site_ / (is_shared_ ? "shared" : name), {name}, site_ / "store.keys",
                                          std::move(options));
      if (!store) return store.error();
      stores_[name] = std::move(*store);
    }
    return {};
  }
  SiteImageStore& operator[](const std::string& name) { return *stores_.at(name); }
  std::vector<wire::StorePeer> peers() const {
    std::vector<wire::StorePeer> all;
    if (!is_shared_)
      for (const auto& [name, store] : stores_) all.emplace_back().set_host(name);
    return all;
  }

 private:
  const fs::path site_;
  const bool is_shared_;
  std::shared_ptr<BlobStore> s3_;
  std::map<std::string, std::unique_ptr<SiteImageStore>> stores_;
};

struct Stored {
  wire::ImageFile file;
  std::string raw;
  bool matches(const std::string& read) const {
    return file.path().ends_with(".ram") ? test::same_machine(read, raw) : read == raw;
  }
  std::string owner() const { return file.path().substr(0, 2); }
};

Result<std::string> get(ImageStore& store, const wire::ImageFile& file, const std::vector<wire::StorePeer>& peers) {
  auto reader = store.open(file, peers);
  if (!reader) return reader.error();
  std::string raw;
  for (;;) {
    auto piece = (*reader)->read();
    if (!piece) return piece.error();
    if (piece->empty()) return raw;
    raw += *piece;
  }
}

wire::ImageFile from(wire::ImageFile file, const Names& copies) {
  file.mutable_copies()->Assign(copies.begin(), copies.end());
  return file;
}

std::string flipped(std::string bytes, std::size_t at, unsigned bit) {
  bytes[at] = static_cast<char>(bytes[at] ^ (1 << bit));
  return bytes;
}
void write(const fs::path& path, const std::string& bytes) {
  const Status done = publish_file(path, bytes, 0600);
  REQUIRE_MESSAGE(done.has_value(), done.error());
}

// A site with everything in it that a site can have.
class Site {
 public:
  explicit Site(bool shared) : is_shared(shared) {
    char name[] = "/dev/shm/stillpoint-files-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path_ = name;
    fs::create_directories(good());
    fill(12, {"h1"});
    REQUIRE(rotate_site_key(good() / "store.keys").has_value());
    fill(13, {"h1", "h2"});
    note_bad_blocks();
  }
  Site(const Site&) = delete;
  Site& operator=(const Site&) = delete;
  ~Site() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }

  Names files() const {
    Names names;
    for (const auto& entry : fs::recursive_directory_iterator(good()))
      if (entry.is_regular_file()) names.push_back(entry.path().lexically_relative(good()));
    std::ranges::sort(names);
    return names;
  }
  // A copy of it, as it was in the beginning.
  fs::path anew() const {
    fs::remove_all(path_ / "copy");
    fs::copy(good(), path_ / "copy", fs::copy_options::recursive);
    return path_ / "copy";
  }
  fs::path store_of(const fs::path& site, const std::string& host) const {
    return site / (is_shared ? "shared" : host) / "hosts" / host;
  }

  const bool is_shared;
  std::vector<Stored> images;
  std::map<std::string, std::set<std::string>> records;  // by host; "s3": there

 private:
  fs::path good() const { return path_ / "good"; }
  void fill(std::uint64_t epoch, const Names& hosts);
  void store(Hosts& hosts, const std::string& host, const std::string& partner, std::uint64_t epoch);
  void keep_record(Hosts& hosts, const std::string& host, std::uint64_t epoch);
  void note_bad_blocks();
  fs::path path_;
};

void Site::fill(std::uint64_t epoch, const Names& of) {
  Hosts hosts(good(), is_shared);
  const Status started = hosts.start();
  REQUIRE_MESSAGE(started.has_value(), started.error());
  for (const std::string& host : of) {
    store(hosts, host, host == "h1" ? "h2" : "h1", epoch);
    keep_record(hosts, host, epoch);
  }
}

void Site::store(Hosts& hosts, const std::string& host, const std::string& partner, std::uint64_t epoch) {
  const std::uint32_t guest = host == "h1" ? 0 : 1;
  wire::GuestImage image;
  const std::string memory = TestGuest(guest + 1, 1, 60 + epoch).stream(), disk = flat_bytes(epoch, 150'000);
  const auto put = [&](ImageName::Part part, const std::string& raw) {
    auto writer = hosts[host].begin({{"j7"}, {epoch}, {guest}, part}, {});
    REQUIRE_MESSAGE(writer.has_value(), writer.error());
    REQUIRE((*writer)->write(raw).has_value());
    auto file = (*writer)->commit();
    REQUIRE_MESSAGE(file.has_value(), file.error());
    return *file;
  };
  *image.mutable_memory() = put(ImageName::Part::memory, memory);
  *image.mutable_disk() = put(ImageName::Part::disk, disk);
  wire::Durability asked;
  asked.add_partners()->set_host(partner);
  for (const auto level : {wire::Durability::HOST_LOSS, wire::Durability::SITE}) {
    asked.set_level(level);
    const Status copied = hosts[host].replicate(image, asked, {});
    REQUIRE_MESSAGE(copied.has_value(), copied.error());
  }
  images.push_back({image.memory(), memory});
  images.push_back({image.disk(), disk});
}

void Site::keep_record(Hosts& hosts, const std::string& host, std::uint64_t epoch) {
  wire::KeepRecord record;
  record.set_record("what " + host + " knows of " + std::to_string(epoch));
  record.set_revision(2);
  record.set_object_store(true);
  const Status kept = hosts[host].keep_record({"j7"}, {epoch}, record, {});
  REQUIRE_MESSAGE(kept.has_value(), kept.error());
  records[host].insert(record.record());
  records["s3"].insert(record.record());
}

// As after damage that was met, and put right by hand.
void Site::note_bad_blocks() {
  Hosts hosts(good(), is_shared);
  REQUIRE(hosts.start().has_value());
  std::map<fs::path, std::string> whole;
  for (const auto& entry : fs::directory_iterator(store_of(good(), "h1") / "packs")) {
    const std::string bytes = whole[entry.path()] = read_file(entry.path()).value();
    write(entry.path(), flipped(bytes, bytes.size() / 2, 0));
  }
  for (const Stored& image : images) (void)get(hosts["h1"], from(image.file, {}), {});
  for (const auto& [path, bytes] : whole) write(path, bytes);
}

// What a site says of itself after damage to a file of that kind.
class Look {
 public:
  Look(const Site& site, Kind kind, const fs::path& at)
      : site_(site), kind_(kind), at_(at), hosts_(at, site.is_shared) {}
  // Whether anything was found to be wrong.
  bool run() {
    bad_blocks();
    const Status started = hosts_.start();
    if (!started) {
      const bool may_refuse = is_keys() || kind_ == Kind::key_ids || kind_ == Kind::directory_id;
      CHECK_MESSAGE(may_refuse, started.error());
      const std::string file = is_keys() ? "store.keys" : kind_ == Kind::key_ids ? "key-ids" : "/id";
      CHECK_MESSAGE(started.error().message().find(file) != std::string::npos, started.error());
      return true;
    }
    restores();
    verifies();
    for (const std::string host : {"h1", "h2"}) records(host, host, wire::ReadRecords::OWN);
    records("h3", "s3", wire::ReadRecords::OBJECT_STORE);
    return found_;
  }

 private:
  bool is_keys() const { return kind_ == Kind::keys; }  // then all is as whole as before, but may be closed
  bool is_s3() const { return kind_ == Kind::s3_pack || kind_ == Kind::s3_list; }

  void restore(const std::string& host, const Stored& image, const wire::ImageFile& file,
               const std::vector<wire::StorePeer>& peers, bool must) {
    CAPTURE(host);
    CAPTURE(file.ShortDebugString());
    const auto read = get(hosts_[host], file, peers);
    if (read) {
      CHECK(image.matches(*read));
      return;
    }
    found_ = true;
    CHECK_MESSAGE((is_keys() || !must), read.error());
    CHECK_MESSAGE(read.error().kind == (is_keys() ? ErrorKind::transient : ErrorKind::damaged), read.error());
  }
  void restores() {
    for (const Stored& image : site_.images) {
      for (const std::string host : {"h1", "h2"}) {
        restore(host, image, from(image.file, {}), {}, false);
        restore(host, image, image.file, hosts_.peers(), true);
      }
      if (!site_.is_shared) restore("h3", image, from(image.file, {"s3"}), {}, !is_s3());
    }
  }
  void verifies() {
    for (const Stored& image : site_.images)
      for (const std::string& host : {image.owner(), std::string(image.owner() == "h1" ? "h2" : "h1")}) {
        CAPTURE(host);
        CAPTURE(image.file.path());
        const auto check = hosts_[host].verify(image.file, hosts_.peers(), {});
        if (!check && is_keys()) continue;
        REQUIRE_MESSAGE(check.has_value(), check.error());
        for (const Error& problem : check->problems)
          CHECK_MESSAGE((is_keys() && problem.kind == ErrorKind::transient), problem);
        found_ |= !check->mended.empty();
        restore(host, image, from(image.file, {}), {}, true);  // put right
      }
  }
  void records(const std::string& host, const std::string& where, wire::ReadRecords::Where asked) {
    CAPTURE(where);
    wire::ReadRecords ask;
    ask.set_where(asked);
    const auto page = hosts_[host].records(ask);
    REQUIRE_MESSAGE(page.has_value(), page.error());
    const std::set<std::string> read(page->records().begin(), page->records().end());
    const auto& good = site_.records.at(where);
    CHECK(std::ranges::includes(good, read));
    CHECK((page->damaged_size() == 0 || read != good));
    const bool may_lack = is_keys() || kind_ == Kind::record || kind_ == Kind::s3_record;
    CHECK((may_lack || read == good));
    found_ |= read != good;
  }
  // The daemon makes nothing of this file where it is damaged; a check of the whole store names it.
  void bad_blocks() {
    if (kind_ != Kind::bad_blocks) return;
    const auto keys = load_site_keys(at_ / "store.keys");
    auto store = ChunkStore::open(system_files(), site_.store_of(at_, "h1"), *keys);
    REQUIRE_MESSAGE(store.has_value(), store.error());
    const auto report = (*store)->verify();
    REQUIRE_MESSAGE(report.has_value(), report.error());
    for (const Error& problem : report->problems) {
      CHECK_MESSAGE(problem.object.ends_with("bad-blocks"), problem);
      found_ = true;
    }
  }

  const Site& site_;
  const Kind kind_;
  const fs::path at_;
  Hosts hosts_;
  bool found_ = false;
};

class Damages {
 public:
  Damages(const Site& site, std::uint32_t seed) : site_(site), random_(seed) {}
  void of(const std::string& file) {
    const KindOfFile* const kind = kind_of(file);
    REQUIRE_MESSAGE(kind != nullptr, file, ": this test knows no such kind of file, nor how it is to be damaged");
    const std::string good = read_file(site_.anew() / file).value();
    look(*kind, file, "removed", [](const fs::path& path) { fs::remove(path); });
    if (good.empty()) return;
    const bool is_text = good.size() < 1000;
    for (int i = 0; i < (is_text ? 8 : 2); ++i) {
      const std::size_t at = random_() % good.size();
      const unsigned bit = random_() % 8;
      look(*kind, file, "bit " + std::to_string(bit) + " at " + std::to_string(at),
           [&](const fs::path& path) { write(path, flipped(good, at, bit)); });
    }
    const std::size_t length = random_() % 4 == 0 ? 0 : random_() % good.size();
    look(*kind, file, "cut to " + std::to_string(length),
         [&](const fs::path& path) { write(path, good.substr(0, length)); });
  }
  // How often each kind was damaged, and found to be.
  std::string figures() const {
    std::string text;
    for (const auto& [path, counts] : counts_)
      text += path + ": " + std::to_string(counts.damaged) + ", " + std::to_string(counts.found) + " found; ";
    return text;
  }
  std::size_t kinds_met() const { return counts_.size(); }

 private:
  struct Counts {
    unsigned damaged = 0, found = 0;
  };
  void look(const KindOfFile& kind, const std::string& file, const std::string& what,
            const std::function<void(const fs::path&)>& damage) {
    CAPTURE(file);
    CAPTURE(what);
    const fs::path at = site_.anew();
    damage(at / file);
    const bool found = Look(site_, kind.kind, at).run();
    Counts& counts = counts_[kind.in_docs.front()];
    ++counts.damaged;
    counts.found += found ? 1 : 0;
    const std::set<Kind> always{Kind::pack, Kind::list, Kind::record, Kind::s3_record};
    CHECK((found || !always.contains(kind.kind)));
    // In a shared directory nobody looks into the S3 store while that is whole.
    const bool in_s3 = kind.kind == Kind::s3_pack || kind.kind == Kind::s3_list;
    CHECK((found || !in_s3 || site_.is_shared));
  }

  const Site& site_;
  std::mt19937 random_;
  std::map<std::string, Counts> counts_;
};

void damage_all(bool is_shared) {
  const char* const given = std::getenv("STILLPOINT_SEED");
  const auto seed =
      given != nullptr ? static_cast<std::uint32_t>(std::strtoul(given, nullptr, 10)) : std::random_device{}();
  CAPTURE(seed);
  const Site site(is_shared);
  REQUIRE_FALSE(Look(site, Kind::pack, site.anew()).run());  // undamaged
  Damages damages(site, seed);
  for (const std::string& file : site.files()) damages.of(file);
  CHECK(damages.kinds_met() == kinds().size());
  MESSAGE("STILLPOINT_SEED=", seed, ": ", damages.figures());
}

TEST_CASE("any file of hosts with directories of their own, damaged: right, put right or refused") {
  damage_all(false);
}
TEST_CASE("any file of hosts that share a directory, damaged: right, put right or refused") { damage_all(true); }

}  // namespace
}  // namespace stillpoint::node
