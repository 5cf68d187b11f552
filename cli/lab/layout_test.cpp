#include "cli/lab/layout.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>

#include "cli/lab/lab.h"
#include "common/file.h"

using namespace stillpoint;
using namespace stillpoint::lab;
namespace fs = std::filesystem;

TEST_CASE("names follow from the directory, however it is written") {
  const auto a = Layout::at("/tmp/some-lab"), b = Layout::at("/tmp/../tmp/./some-lab/"),
             c = Layout::at("/tmp/other-lab");
  REQUIRE(a.has_value());
  REQUIRE(b.has_value());
  REQUIRE(c.has_value());
  CHECK(a->id() == b->id());
  CHECK(a->directory() == b->directory());
  CHECK(a->id().size() == 6);
  CHECK(a->id() != c->id());
  CHECK(a->host_namespace("h1") != c->host_namespace("h1"));
  CHECK(a->switch_namespace().starts_with(a->namespace_prefix()));
}

TEST_CASE("a directory that cannot hold a laboratory is refused") {
  CHECK_FALSE(Layout::at("/").has_value());
  CHECK_FALSE(Layout::at("/" + std::string(90, 'x')).has_value());
}

TEST_CASE("what exists and is no directory is refused, whatever way it is named") {
  char name[] = "/tmp/stillpoint-layout-XXXXXX";
  const fs::path place = ::mkdtemp(name);
  REQUIRE(publish_file(place / "file", "somebody's").has_value());
  fs::create_symlink("file", place / "link");
  for (const auto& wrong : {place / "file", place / "link", place / "file" / "below"}) {
    const auto found = Layout::at(wrong);
    REQUIRE_FALSE(found.has_value());
    CHECK(found.error().kind == ErrorKind::refused);
  }
  CHECK(Layout::at(place).has_value());
  CHECK(Layout::at(place / "new").has_value());
  fs::remove_all(place);
}

TEST_CASE("`down` of a file leaves it there") {
  if (::geteuid() != 0) return;  // refused before anything is looked at
  char name[] = "/tmp/stillpoint-layout-XXXXXX";
  const fs::path place = ::mkdtemp(name);
  REQUIRE(publish_file(place / "file", "somebody's").has_value());
  if (auto opened = Lab::open(place / "file")) CHECK_FALSE(opened->down().has_value());
  CHECK(fs::is_regular_file(place / "file"));
  fs::remove_all(place);
}

TEST_CASE("a host's name and number name the same host") {
  for (unsigned number : {1u, 9u, 10u, kMaxHosts}) CHECK(host_number(host_name(number)) == number);
  for (const char* wrong : {"", "h", "h0", "h01", "h1x", "x1", "h-1", "h65", "h99999999999"})
    CHECK(host_number(wrong) == 0);
}

TEST_CASE("an interface's name fits, and addresses differ from the coordinator's") {
  CHECK(Layout::at("/" + std::string(70, 'x'))->short_host(host_name(kMaxHosts)).string().size() < 40);
  CHECK(switch_port(host_name(kMaxHosts)).size() <= 15);
  CHECK(host_address(1) == "10.98.0.11");
  CHECK(host_address(kMaxHosts) == "10.98.0.74");
}
