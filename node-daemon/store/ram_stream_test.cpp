#include "node-daemon/store/ram_stream.h"

#include <doctest/doctest.h>

#include <random>

#include "node-daemon/store/bytes.h"
#include "node-daemon/store/store_test_data.h"

namespace stillpoint::node {
namespace {

// Writes the stream again while it is read: pages as they come, so that what is left out shows.
struct Again final : RamStreamSink {
  std::vector<RamBlock> blocks;
  std::vector<std::string> pages;
  std::string others;
  std::size_t zeros = 0;
  Status refuse;

  Status ram(const std::vector<RamBlock>& found) override {
    blocks = found;
    return {};
  }
  Status page(std::uint32_t block, std::uint64_t page, std::string_view content) override {
    CHECK(content.size() == kPageBytes);
    pages.push_back(std::to_string(block) + ":" + std::to_string(page));
    return refuse;
  }
  Status zero_page(std::uint32_t, std::uint64_t) override {
    ++zeros;
    return {};
  }
  Status other(std::string_view bytes) override {
    others += bytes;
    return {};
  }
};

using test::parse;

ErrorKind refusal(const std::string& stream) {
  Again sink;
  const auto shape = parse(stream, sink);
  REQUIRE(shape.has_error());
  return shape.error().kind;
}

const std::string kStream = test::TestGuest(1).stream();

TEST_CASE("pages and other bytes come apart the same way whatever the pieces") {
  Again whole;
  const auto shape = parse(kStream, whole);
  REQUIRE_MESSAGE(shape.has_value(), shape.error());
  CHECK(shape->has_pages);
  CHECK(shape->footer);
  CHECK(shape->section_id == 2);
  CHECK(shape->raw_bytes == kStream.size());
  CHECK(whole.blocks == test::TestGuest(1).blocks);
  CHECK(whole.pages.size() + whole.zeros == 342);
  CHECK(whole.others.substr(0, shape->head_bytes) == kStream.substr(0, shape->head_bytes));
  CHECK(whole.others.substr(shape->head_bytes) == test::TestGuest(1).devices);
  for (const std::size_t piece : {1u, 7u, 4095u, 4096u, 4105u, 9000u, 100'000u}) {
    Again pieces;
    const auto same = parse(kStream, pieces, piece);
    REQUIRE_MESSAGE(same.has_value(), same.error());
    CHECK(*same == *shape);
    CHECK(pieces.pages == whole.pages);
    CHECK(pieces.others == whole.others);
  }
}

// As a migration that copies beforehand makes it: its last pages come behind a command.
TEST_CASE("commands among the pages come behind them, and no page is left out") {
  const std::string command("\x08\x00\x0a\x00\x03xyz", 8);
  const std::string devices = test::TestGuest(1).devices;
  // The guest's pages are in two sections.
  const std::string begin("\2\0\0\0\2", 5);
  const std::size_t part = kStream.find(begin);
  REQUIRE(part != kStream.npos);
  const std::string sections = kStream.substr(part, kStream.size() - devices.size() - part);
  std::string last = sections;
  const std::size_t second = last.rfind("\x7e" + begin.substr(1) + begin) + 5;
  REQUIRE(second < last.size());
  last[second] = 3;
  const std::string stream = kStream.substr(0, kStream.size() - devices.size()) + command + last + devices;
  Again plain;
  REQUIRE(parse(kStream, plain).has_value());
  for (const std::size_t piece : {1u, 4096u, 1'000'000u}) {
    Again sink;
    const auto shape = parse(stream, sink, piece);
    REQUIRE_MESSAGE(shape.has_value(), shape.error());
    CHECK(shape->section_type == 3);
    CHECK(sink.pages.size() == 2 * plain.pages.size());
    CHECK(sink.others.substr(shape->head_bytes) == command + devices);
  }
  // One that is cut off, and one that begins a stream.
  Again cut;
  CHECK(parse(kStream.substr(0, kStream.size() - devices.size()) + command.substr(0, 6), cut).error().kind ==
        ErrorKind::damaged);
}

TEST_CASE("a stream with something unknown before the pages is kept as it is") {
  // A live section of another kind; an unknown RAM version; a capability that adds to the RAM header.
  std::string other = kStream, version = kStream, header = kStream;
  const std::size_t name = kStream.find("\3ram");
  other.replace(name, 4, "\3vio");
  version[name + 11] = 5;
  header[name + 12 + 8 + 1 + 6 + 7] ^= 1;
  const std::string text = "no stream at all, but long enough to be one";
  for (const std::string& stream : {other, version, header, text}) {
    Again sink;
    const auto shape = parse(stream, sink, 1000);
    REQUIRE_MESSAGE(shape.has_value(), shape.error());
    CHECK_FALSE(shape->has_pages);
    CHECK(sink.pages.empty());
    CHECK(sink.others == stream);
  }
}

TEST_CASE("what cannot be a stream is refused") {
  CHECK(refusal("") == ErrorKind::damaged);
  CHECK(refusal("QEVM") == ErrorKind::damaged);
  CHECK(refusal(kStream.substr(0, 50)) == ErrorKind::damaged);
  CHECK(refusal(kStream.substr(0, kStream.size() / 2)) == ErrorKind::damaged);
  const std::size_t first = kStream.find(std::string("\2\0\0\0\2", 5)) + 5;
  std::string beyond = kStream, unknown = kStream, block = kStream, footer = kStream;
  beyond[first] = 0x7f;       // an address far beyond the block
  unknown[first + 7] = 0x40;  // a page in another encoding
  block[first + 9] = 'q';     // a block that was not announced
  CHECK(refusal(beyond) == ErrorKind::damaged);
  CHECK(refusal(unknown) == ErrorKind::refused);
  CHECK(refusal(block) == ErrorKind::damaged);
  footer[first - 6] ^= 1;
  CHECK(refusal(footer) == ErrorKind::damaged);
}

TEST_CASE("claims of the header are checked before memory is taken for them") {
  std::string huge = kStream;
  const std::size_t total = kStream.find("\3ram") + 12;
  for (std::size_t i = 0; i < 7; ++i) huge[total + i] = '\x7f';
  Again sink;
  CHECK(parse(huge, sink).has_value());
  CHECK(sink.blocks.empty());
  std::string many = kStream.substr(0, total);
  put_be(many, (std::uint64_t{1} << 30) | 4);
  for (int i = 0; i < 100'000; ++i) many += std::string("\3") + std::to_string(100 + i % 900) + std::string(8, '\0');
  Again other;
  CHECK(parse(many, other).has_value());
  CHECK(other.blocks.empty());
}

TEST_CASE("an error of the sink ends the parsing and stays") {
  Again sink;
  sink.refuse = Error{ErrorKind::storage_full, "write", "x", "full"};
  RamStreamParser parser(sink);
  CHECK(parser.push(kStream).error().kind == ErrorKind::storage_full);
  CHECK(parser.push("").error().kind == ErrorKind::storage_full);
  CHECK(parser.finish().error().kind == ErrorKind::storage_full);
  CHECK(sink.pages.size() == 1);
}

TEST_CASE("damaged streams never do more than fail") {
  std::mt19937_64 random(11);
  for (int round = 0; round < 3000; ++round) {
    std::string stream = kStream.substr(0, 600 + random() % 30'000);
    for (unsigned flips = 1 + random() % 4; flips > 0; --flips)
      stream[random() % std::min<std::size_t>(stream.size(), 800)] = static_cast<char>(random());
    Again sink;
    (void)parse(stream, sink, 1 + random() % 9000);
  }
}

}  // namespace
}  // namespace stillpoint::node
