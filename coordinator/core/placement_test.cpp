#include "coordinator/core/placement.h"

#include <doctest/doctest.h>

#include <map>

using namespace stillpoint;
using namespace stillpoint::coordinator;

namespace {

std::map<std::string, int> spread_of(const std::vector<Placement>& placed) {
  std::map<std::string, int> count;
  for (const auto& p : placed) ++count[p.host.value];
  return count;
}

}  // namespace

TEST_CASE("guests are spread over the hosts, the ones with more memory first") {
  const auto placed = place({{HostName{"h1"}, 1000}, {HostName{"h2"}, 3000}, {HostName{"h3"}, 2000}}, 2, 500, true);
  REQUIRE(placed.has_value());
  CHECK(placed.value()[0].host.value == "h2");
  CHECK(placed.value()[1].host.value == "h3");
}

TEST_CASE("with fewer hosts than guests they double up, evenly") {
  const auto placed = place({{HostName{"h1"}, 4000}, {HostName{"h2"}, 4000}}, 4, 500, true);
  REQUIRE(placed.has_value());
  CHECK(spread_of(placed.value()) == std::map<std::string, int>{{"h1", 2}, {"h2", 2}});
}

TEST_CASE("memory counts") {
  const auto placed = place({{HostName{"h1"}, 600}, {HostName{"h2"}, 4000}}, 3, 500, true);
  REQUIRE(placed.has_value());
  CHECK(spread_of(placed.value()) == std::map<std::string, int>{{"h1", 1}, {"h2", 2}});
  const auto none = place({{HostName{"h1"}, 600}}, 2, 500, true);
  REQUIRE(none.has_error());
  CHECK(none.error().kind == ErrorKind::transient);
  CHECK(none.error().message().find("h1") != std::string::npos);
  CHECK(place({}, 1, 1, true).has_error());
}

TEST_CASE("packed, one host is filled before the next") {
  const auto placed = place({{HostName{"h1"}, 1000}, {HostName{"h2"}, 9000}}, 3, 500, false);
  REQUIRE(placed.has_value());
  CHECK(spread_of(placed.value()) == std::map<std::string, int>{{"h1", 2}, {"h2", 1}});
}

TEST_CASE("of hosts with as many guests the one with less to do is taken; one that failed of late comes last") {
  const HostRoom busy{HostName{"h1"}, 9000, 1.5, 0.5}, idle{HostName{"h2"}, 4000, 0.5, 0.5},
      shaky{HostName{"h3"}, 9000, 0, 0.5, true};
  auto placed = place({busy, idle, shaky}, 1, 500, true);
  REQUIRE(placed.has_value());
  CHECK(placed.value()[0].host.value == "h2");
  placed = place({busy, idle, shaky}, 3, 500, true);
  REQUIRE(placed.has_value());
  CHECK(spread_of(placed.value()) == std::map<std::string, int>{{"h1", 1}, {"h2", 2}});
  placed = place({busy, idle, shaky}, 3, 4000, true);
  REQUIRE(placed.has_value());
  CHECK(spread_of(placed.value()) == std::map<std::string, int>{{"h1", 2}, {"h2", 1}});
  placed = place({busy, idle, shaky}, 5, 4000, true);
  REQUIRE(placed.has_value());
  CHECK(spread_of(placed.value()) == std::map<std::string, int>{{"h1", 2}, {"h2", 1}, {"h3", 2}});
  placed = place({shaky, busy}, 1, 500, false);
  REQUIRE(placed.has_value());
  CHECK(placed.value()[0].host.value == "h1");
}
