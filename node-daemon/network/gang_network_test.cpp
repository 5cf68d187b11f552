// In a network namespace of its own, made and left by the test's process.
#include "node-daemon/network/gang_network.h"

#include <doctest/doctest.h>
#include <sched.h>

#include <cerrno>
#include <cstring>

#include "common/process.h"

namespace stillpoint::node {
namespace {

void run(const std::vector<std::string>& argv) {
  auto out = run_checked(argv);
  REQUIRE_MESSAGE(out.has_value(), out.error());
}

std::string output(const std::vector<std::string>& argv) {
  auto out = run_checked(argv);
  REQUIRE_MESSAGE(out.has_value(), out.error());
  return *out;
}

bool has_link(const std::string& name) {
  auto out = run_process({"ip", "link", "show", name});
  return out.has_value() && out->exit_code == 0;
}

// The process enters a fresh namespace once; it ends with the process.
void enter_namespace() {
  static const bool entered = [] {
    REQUIRE_MESSAGE(::unshare(CLONE_NEWNET) == 0, "a network namespace needs root: ", std::strerror(errno));
    run({"ip", "link", "add", "under0", "type", "veth", "peer", "name", "under1"});
    run({"ip", "address", "add", "192.0.2.1/24", "dev", "under0"});
    run({"ip", "link", "set", "under0", "mtu", "1500", "up"});
    return true;
  }();
  (void)entered;
}

wire::GangNetwork gang(std::uint32_t vni, const std::vector<std::string>& hosts) {
  wire::GangNetwork network;
  network.set_vni(vni);
  for (std::size_t g = 0; g < hosts.size(); ++g) {
    auto& place = *network.add_places();
    place.set_guest(static_cast<std::uint32_t>(g));
    place.set_mac("52:54:00:00:00:0" + std::to_string(g));
    place.set_host_address(hosts[g]);
  }
  return network;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (auto at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST_CASE("a gang's network comes up with static neighbours, again without change, and goes without trace") {
  enter_namespace();
  GangNetworks networks("192.0.2.1");
  const auto network = gang(7, {"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.3"});
  for (int i = 0; i < 2; ++i) {
    auto mtu = networks.bring_up(network);
    REQUIRE_MESSAGE(mtu.has_value(), mtu.error());
    CHECK(*mtu == 1450);
    const std::string port = output({"ip", "-details", "link", "show", "spx7"});
    CHECK(port.find("vxlan id 7 local 192.0.2.1 dev under0") != port.npos);
    CHECK(port.find("dstport 4789") != port.npos);
    CHECK(port.find("nolearning") != port.npos);
    CHECK(port.find("master spb7") != port.npos);
    CHECK(port.find("mtu 1450") != port.npos);
    CHECK(output({"ip", "link", "show", "spb7"}).find("mtu 1450") != std::string::npos);
    const std::string table = output({"bridge", "fdb", "show", "dev", "spx7"});
    CHECK(table.find("52:54:00:00:00:01 dst 192.0.2.2") != table.npos);
    CHECK(table.find("52:54:00:00:00:02 dst 192.0.2.3") != table.npos);
    CHECK(table.find("52:54:00:00:00:03 dst 192.0.2.3") != table.npos);
    CHECK(table.find("52:54:00:00:00:00 dst") == table.npos);  // lives here
    CHECK(count(table, "00:00:00:00:00:00 dst") == 2);         // one per other host
  }
  auto moved = networks.bring_up(gang(7, {"192.0.2.1", "192.0.2.4"}));
  REQUIRE_MESSAGE(moved.has_value(), moved.error());
  const std::string table = output({"bridge", "fdb", "show", "dev", "spx7"});
  CHECK(table.find("52:54:00:00:00:01 dst 192.0.2.4") != table.npos);
  CHECK(table.find("192.0.2.2") == table.npos);
  CHECK(table.find("192.0.2.3") == table.npos);

  REQUIRE(networks.take_down(7).has_value());
  CHECK(!has_link("spb7"));
  CHECK(!has_link("spx7"));
  REQUIRE(networks.take_down(7).has_value());
}

TEST_CASE("leftovers of unknown gangs are removed at start, known ones and strangers stay") {
  enter_namespace();
  GangNetworks networks("192.0.2.1");
  REQUIRE(networks.bring_up(gang(8, {"192.0.2.1", "192.0.2.2"})).has_value());
  REQUIRE(networks.bring_up(gang(9, {"192.0.2.1", "192.0.2.2"})).has_value());
  run({"ip", "link", "add", "spbx", "type", "bridge"});
  REQUIRE(networks.remove_leftovers({9}).has_value());
  CHECK(!has_link("spb8"));
  CHECK(!has_link("spx8"));
  CHECK(has_link("spb9"));
  CHECK(has_link("spx9"));
  CHECK(has_link("spbx"));
  REQUIRE(networks.remove_leftovers({}).has_value());
  CHECK(!has_link("spb9"));
}

TEST_CASE("an underlay address that this host does not have is an error that names it") {
  enter_namespace();
  auto up = GangNetworks("198.51.100.1").bring_up(gang(10, {"198.51.100.1"}));
  REQUIRE(!up.has_value());
  CHECK(up.error().object == "198.51.100.1");
  CHECK(!has_link("spb10"));
}

}  // namespace
}  // namespace stillpoint::node
