// The file of an export: what was written comes back, and nothing else does.
#include "cli/export/export_file.h"

#include <doctest/doctest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "cli/export/new_file.h"
#include "common/file.h"

namespace stillpoint::cli {
namespace {

namespace fs = std::filesystem;
using Images = std::vector<std::string>;

const std::string kSalt = "0123456789abcdef";
const std::optional<std::string> kPassphrase = "correct horse battery staple";

std::string written(const std::optional<std::string>& passphrase, const std::string& description,
                    const Images& images) {
  std::string file;
  const auto write = [&](std::string_view bytes) -> Status {
    file += bytes;
    return {};
  };
  auto writer = ExportWriter::begin(write, passphrase, kSalt, kLeastCost);
  REQUIRE_MESSAGE(writer.has_value(), writer.error());
  REQUIRE(writer->description(description).has_value());
  for (const auto& image : images) {
    REQUIRE(writer->data(image).has_value());
    REQUIRE(writer->image_end().has_value());
  }
  REQUIRE(writer->finish().has_value());
  CHECK(writer->bytes() == file.size());
  return file;
}

struct Content {
  std::string description;
  Images images;
};

// In pieces of so many bytes at most.
Result<Content> content(std::string_view file, const std::optional<std::string>& passphrase = kPassphrase,
                        std::size_t piece = 1u << 20) {
  const auto read = [&](char* buffer, std::size_t most) -> Result<std::size_t> {
    const std::size_t count = std::min({file.size(), most, piece});
    file.copy(buffer, count);
    file.remove_prefix(count);
    return count;
  };
  auto reader = ExportReader::begin(read, [&]() -> Result<std::string> {
    if (passphrase) return *passphrase;
    return Error{ErrorKind::refused, "import", "", "no passphrase given"};
  });
  if (!reader) return reader.error();
  Content found;
  std::string image;
  for (;;) {
    auto record = reader->next();
    if (!record) return record.error();
    switch (record->kind) {
      case RecordKind::description: found.description = record->bytes; break;
      case RecordKind::data: image += record->bytes; break;
      case RecordKind::image_end: found.images.push_back(std::exchange(image, {})); break;
      case RecordKind::end: return found;
    }
  }
}

std::string why_not(std::string_view file, const std::optional<std::string>& passphrase = kPassphrase) {
  const auto read = content(file, passphrase);
  REQUIRE(!read.has_value());
  return read.error().message();
}
bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::string some_bytes(std::size_t count) {
  std::mt19937_64 random(7);
  std::string bytes(count, '\0');
  for (std::size_t i = 0; i < count; i += 3) bytes[i] = static_cast<char>(random());
  return bytes;
}

// Where the head is changed its digest is made right again: a later check has to find it.
std::string with_head(std::string file, std::size_t at, const std::string& bytes) {
  file.replace(at, bytes.size(), bytes);
  file.replace(56, 8, sha256(file.substr(0, 56)).substr(0, 8));
  return file;
}

TEST_CASE("what was written comes back, sealed or plain, whatever the pieces it is read in") {
  const Images images{some_bytes(2'500'000), "", std::string(1u << 20, 'x'), "a"};
  for (const auto& passphrase : {kPassphrase, std::optional<std::string>()}) {
    const std::string file = written(passphrase, R"({"a":1})", images);
    for (const std::size_t piece : {std::size_t{1} << 20, std::size_t{1000}}) {
      const auto read = content(file, passphrase, piece);
      REQUIRE_MESSAGE(read.has_value(), read.error());
      CHECK(read->description == R"({"a":1})");
      CHECK(read->images == images);
    }
  }
}

TEST_CASE("a sealed file shows nothing of what is in it; a plain one needs no passphrase") {
  const std::string secret = "what nobody may see";
  CHECK(!says(written(kPassphrase, secret, {secret}), "nobody"));
  const std::string open = written(std::nullopt, secret, {secret});
  CHECK(says(open, "nobody"));
  CHECK(content(open, std::nullopt).has_value());
}

TEST_CASE("the same passphrase and another salt make another key") {
  std::string one, two;
  for (const auto& [salt, out] : {std::pair{kSalt, &one}, std::pair{std::string("fedcba9876543210"), &two}}) {
    auto sealing = Sealing::from_passphrase("a", salt, kLeastCost);
    REQUIRE(sealing.has_value());
    REQUIRE(sealing->seal(0, "", "plain text", *out).has_value());
  }
  CHECK(one != two);
}

TEST_CASE("each field of the head: refused in words that say what to do") {
  const std::string file = written(kPassphrase, "{}", {"image"});
  CHECK(says(why_not(""), "no exported checkpoint"));
  CHECK(says(why_not("stillexp"), "no exported checkpoint"));
  CHECK(says(why_not(with_head(file, 0, "stillpak")), "no exported checkpoint"));
  CHECK(says(why_not(with_head(file, 8, std::string("\2\0\0\0", 4))), "has version 2, this program knows version 1"));
  CHECK(says(why_not(with_head(file, 12, "\3")), "does not know"));
  CHECK(says(why_not(with_head(file, 16, "\x13")), "does not know"));  // 512 MiB
  CHECK(says(why_not(with_head(file, 16, "\x09")), "does not know"));
  CHECK(says(why_not(with_head(file, 20, "\1")), "does not know"));
  CHECK(says(why_not(with_head(file, 24, "x")), "passphrase is not"));
  CHECK(says(why_not(with_head(file, 40, "x")), "passphrase is not"));
  CHECK(says(why_not(file, "another"), "passphrase is not the one that it was exported with"));
  CHECK(says(why_not(file, std::nullopt), "no passphrase given"));
  std::string flipped = file;
  flipped[30] ^= 1;
  CHECK(says(why_not(flipped), "its head is not what was written"));
  const std::string open = written(std::nullopt, "{}", {"image"});
  CHECK(says(why_not(with_head(open, 16, "\x0a")), "does not know"));
  CHECK(says(why_not(with_head(open, 40, "x")), "its head is not what was written"));
  // A sealed one does not pass for a plain one, nor the other way round.
  CHECK(!content(with_head(with_head(with_head(file, 12, std::string(1, '\0')), 16, std::string(1, '\0')), 40,
                           std::string(16, '\0')))
             .has_value());
}

TEST_CASE("cut off anywhere, or with something behind it: refused") {
  for (const auto& passphrase : {kPassphrase, std::optional<std::string>()}) {
    const std::string file = written(passphrase, "{}", {"one image", some_bytes(300)});
    for (std::size_t size = 64; size < file.size(); ++size) {
      const auto read = content(std::string_view(file).substr(0, size), passphrase);
      REQUIRE(!read.has_value());
      CHECK(says(read.error().message(), "cut off"));
    }
    CHECK(says(why_not(file + "x", passphrase), "something follows its end"));
  }
}

TEST_CASE("any bit flipped: refused") {
  for (const auto& passphrase : {kPassphrase, std::optional<std::string>()}) {
    std::string file = written(passphrase, R"({"guests":[]})", {some_bytes(200)});
    for (std::size_t at = 0; at < file.size(); ++at) {
      const char mask = static_cast<char>(1 << at % 8);
      file[at] ^= mask;
      const auto read = content(file, passphrase);
      CHECK_MESSAGE(!read.has_value(), "byte ", at);
      file[at] ^= mask;
    }
  }
}

TEST_CASE("records exchanged, repeated or left out: refused") {
  const std::string file = written(kPassphrase, "{}", {"one", "two"});
  std::vector<std::string> parts{file.substr(0, 64)};
  for (std::size_t at = 64; at + 32 < file.size();) {
    const std::size_t size = 12 + static_cast<unsigned char>(file[at + 8]);
    parts.push_back(file.substr(at, size));
    at += size;
  }
  REQUIRE(parts.size() == 7);  // head, description, data, end, data, end, end
  const auto whole = [&](const std::vector<std::size_t>& order) {
    std::string text;
    for (const auto part : order) text += parts[part];
    return text + sha256(text);
  };
  CHECK(content(whole({0, 1, 2, 3, 4, 5, 6})).has_value());
  CHECK(!content(whole({0, 1, 4, 5, 2, 3, 6})).has_value());
  CHECK(!content(whole({0, 1, 2, 3, 2, 3, 6})).has_value());
  CHECK(!content(whole({0, 1, 2, 3, 6})).has_value());
  CHECK(!content(whole({0, 2, 3, 4, 5, 6})).has_value());
  CHECK(!content(whole({0, 1, 2, 2, 3, 4, 5, 6})).has_value());
}

TEST_CASE("a length that somebody made up is refused before anything is allocated for it") {
  const std::string file = written(std::nullopt, "{}", {"one"});
  std::string claims = file;
  claims.replace(64 + 4, 4, "\xff\xff\xff\xff");
  CHECK(says(why_not(claims, std::nullopt), "no record begins there"));
  claims = file;
  claims.replace(64 + 8, 4, "\xff\xff\xff\x7f");
  CHECK(says(why_not(claims, std::nullopt), "no record begins there"));
  claims = file;
  claims.replace(64 + 4, 4, std::string("\0\0\0\4", 4));  // 64 MiB, as a description may have: not there
  claims.replace(64 + 8, 4, std::string("\0\0\0\4", 4));
  CHECK(says(why_not(claims, std::nullopt), "cut off"));
}

struct Directory {
  fs::path path;
  Directory() {
    char name[] = "/tmp/stillpoint-export-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(path), fs::directory_iterator()));
  }
};

TEST_CASE("the file appears whole, for its owner alone, and takes no other file's name") {
  Directory directory;
  const std::string name = directory.path / "job.export";
  {
    auto file = NewFile::create(name);
    REQUIRE(file.has_value());
    REQUIRE(file->write("half").has_value());
    CHECK(!fs::exists(name));
  }
  CHECK(directory.files() == 0);
  auto file = NewFile::create(name), second = NewFile::create(name);
  REQUIRE(file.has_value());
  REQUIRE(second.has_value());
  REQUIRE(file->write("whole").has_value());
  REQUIRE(file->publish().has_value());
  CHECK(*read_file(name) == "whole");
  struct stat info {};
  REQUIRE(::stat(name.c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
  const auto late = second->publish();
  REQUIRE(!late.has_value());
  CHECK(says(late.error().message(), "a file of that name already"));
  CHECK(*read_file(name) == "whole");
  const auto third = NewFile::create(name);
  REQUIRE(!third.has_value());
  CHECK(says(third.error().message(), "a file of that name already"));
}

TEST_CASE("a passphrase is read without the newline, and refused when others may read it") {
  Directory directory;
  const std::string name = directory.path / "pass";
  REQUIRE(publish_file(name, "two words\n").has_value());
  CHECK(*read_passphrase(name) == "two words");
  REQUIRE(publish_file(name, "two words\n", 0640).has_value());
  CHECK(says(read_passphrase(name).error().message(), "others may read it"));
  REQUIRE(publish_file(name, "\n").has_value());
  CHECK(says(read_passphrase(name).error().message(), "it is empty"));
  CHECK(!read_passphrase(directory.path / "none").has_value());
}

}  // namespace
}  // namespace stillpoint::cli
