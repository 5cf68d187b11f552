// What keeps a checkpoint from being taken, with real sockets and real programs: VERIFY names the socket, PREPARE the
// rank and what to do; nothing is harmed by a refusal, and when its reason is gone the next checkpoint is quiet.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <chrono>
#include <iostream>
#include <string>
#include <vector>

#include "common/fd.h"
#include "common/process.h"
#include "coordinator/core/cut.h"
#include "tests/cluster/suite.h"

using namespace stillpoint;
using namespace stillpoint::cluster;

namespace {

constexpr unsigned kPort = 7000;  // of programs/beside.c
constexpr char kPlace[] = "10.99.0.";

bool says(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

// One that is given up soon.
CycleResult refused(Cluster& cluster, CycleSettings settings = {.attempts = 2}) {
  const CycleResult result = cluster.cycle(settings);
  CHECK_FALSE(result.quiet);
  std::cout << "refused after " << std::chrono::duration_cast<milliseconds>(result.to_verified).count()
            << " ms: " << result.why << std::endl;
  return result;
}

// "guest 0 socket 10.99.0.1:40000 -> 10.99.0.2:7000 (guest 1)": either end of the connection of programs/beside.c.
bool names_link(const std::string& why, unsigned guest, bool other_known = true) {
  const bool asks = guest == 0;
  const std::string other = std::to_string(1 - guest);
  const std::string begin = "guest " + std::to_string(guest) + " socket " + kPlace + std::to_string(guest + 1) + ":" +
                            (asks ? "" : std::to_string(kPort) + " -> ");
  const std::string end = std::string(kPlace) + std::to_string(2 - guest) + ":" + (asks ? std::to_string(kPort) : "");
  const std::size_t at = why.find(begin);
  return at != why.npos && why.find(end, at) != why.npos && (!other_known || says(why, "(guest " + other + ")"));
}

// The kernel forgets every connection from or to the port in this guest; it has nobody to tell it to, for the time.
void destroy_sockets(Cluster& cluster, unsigned guest) {
  const auto done = run_checked({"nsenter", "-t", std::to_string(cluster.node(guest).agent()), "-n", "ss", "-K", "-n",
                                 "-t", "state", "established", "sport", "=", ":" + std::to_string(kPort)},
                                {});
  REQUIRE_MESSAGE(done.has_value(), done.error().message());
}

}  // namespace

TEST_CASE("refuses_unacknowledged") {
  Run run({"eager"});
  Cluster& cluster = run.cluster();
  cluster.cut_off(1);
  REQUIRE_MESSAGE(cluster.serve_until([&] { return cluster.in_flight() != 0; }, kLong), cluster.problem());
  const CycleResult result = refused(cluster);
  CHECK_MESSAGE(says(result.why, "guest "), result.why);
  CHECK_MESSAGE(says(result.why, " socket 10.99.0."), result.why);
  CHECK_MESSAGE((says(result.why, "(guest 1)") || says(result.why, "(guest 0)")), result.why);
  CHECK_MESSAGE((says(result.why, " unacknowledged") || says(result.why, "in its send queue")), result.why);
  cluster.join(1);
  run.is_quiet();
  run.ends_as_undisturbed();
}

// Half-open: one end believes in a connection that the other one has not taken up.
TEST_CASE("refuses_silent") {
  Run run({.name = "beside", .arguments = {"silent"}});
  run.is_quiet();
  run.tell_and_wait("begin", "begun");
  const CycleResult result = refused(run.cluster());
  CHECK_MESSAGE(names_link(result.why, 0), result.why);
  CHECK_MESSAGE(says(result.why, "is in SYN_SENT, not established"), result.why);
  run.tell_and_wait("end", "ended");
  run.is_quiet();
  run.ends_as_undisturbed();
}

// Half-closed: one end has said its last word.
TEST_CASE("refuses_closing") {
  Run run({.name = "beside", .arguments = {"closing"}});
  run.tell_and_wait("begin", "begun");
  const CycleResult result = refused(run.cluster());
  CHECK_MESSAGE(names_link(result.why, 0), result.why);
  CHECK_MESSAGE(names_link(result.why, 1), result.why);
  CHECK_MESSAGE(says(result.why, "is in FIN_WAIT2, not established"), result.why);
  CHECK_MESSAGE(says(result.why, "is in CLOSE_WAIT, not established"), result.why);
  run.tell_and_wait("end", "ended");
  run.is_quiet();
  run.ends_as_undisturbed();
}

TEST_CASE("refuses_one_end") {
  Run run({.name = "beside", .arguments = {"pair"}});
  Cluster& cluster = run.cluster();
  run.tell_and_wait("begin", "begun");
  run.is_quiet();  // both ends are there
  cluster.cut_off(1);
  destroy_sockets(cluster, 1);
  cluster.join(1);
  const CycleResult result = refused(cluster);
  CHECK_MESSAGE(names_link(result.why, 0), result.why);
  CHECK_MESSAGE(says(result.why, "has no other end in the gang"), result.why);
  run.tell_and_wait("end", "ended");
  run.is_quiet();
  run.ends_as_undisturbed();
}

// After a restore the coordinator compares what it finds with what the checkpoint recorded, and refuses the restart
// where they differ (coordinator/core/restart.cpp; restart_test.cpp shows that nothing goes on then). Here the links
// have carried bytes since the cut, which is what a restore of one guest from another epoch looks like.
TEST_CASE("refuses_other_figures") {
  Run run({"eager"});
  Cluster& cluster = run.cluster();
  const CycleResult checkpoint = cluster.cycle({});
  REQUIRE_MESSAGE(checkpoint.quiet, checkpoint.why);
  CHECK(coordinator::cut_differences(checkpoint.cut, checkpoint.cut).empty());
  std::vector<std::string> differences;
  const auto differ = [&] {
    differences = coordinator::cut_differences(checkpoint.cut, cluster.check_links());
    return !differences.empty();
  };
  REQUIRE_MESSAGE(cluster.serve_until(differ, kLong), cluster.problem());
  const std::string why = coordinator::summary(differences);
  std::cout << "differs: " << why << std::endl;
  CHECK_MESSAGE(says(why, " socket 10.99.0."), why);
  CHECK_MESSAGE((says(why, "(guest 1)") || says(why, "(guest 0)")), why);
  CHECK_MESSAGE(says(why, "received at the cut, now "), why);
  run.is_quiet();
  run.ends_as_undisturbed();
}

TEST_CASE("refuses_outside") {
  Run run({.name = "beside", .arguments = {"outside"}});
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(kPort);
  ::inet_pton(AF_INET, Cluster::kOutsideAddress, &address.sin_addr);
  // A socket belongs to the namespace that it was made in: this process's own, since there is a cluster.
  const Fd outside(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(::bind(outside.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(::listen(outside.get(), 4) == 0);
  run.tell_and_wait("begin", "begun");
  const CycleResult result = refused(run.cluster());
  CHECK_MESSAGE(says(result.why, "prepare the checkpoint: rank 2 (beside, pid "), result.why);
  CHECK_MESSAGE(says(result.why, " -> 10.99.255.1:7000"), result.why);
  CHECK_MESSAGE(says(result.why, "close it before the checkpoint"), result.why);
  run.tell_and_wait("end", "ended");
  run.is_quiet();
  run.ends_as_undisturbed();
}

TEST_CASE("refuses_rdma_device") {
  Run run({.name = "beside", .arguments = {"device"}});
  run.tell_and_wait("begin", "begun");
  const CycleResult result = refused(run.cluster());
  CHECK_MESSAGE(says(result.why, "prepare the checkpoint: rank 2 (beside, pid "), result.why);
  CHECK_MESSAGE(says(result.why, "the RDMA device /dev/infiniband/uverbs0"), result.why);
  CHECK_MESSAGE(says(result.why, "keep the program to TCP"), result.why);
  run.tell_and_wait("end", "ended");
  run.is_quiet();
  run.ends_as_undisturbed();
}

// Of one rank only: what a wrapper script does.
TEST_CASE("refuses_missing_hooks") {
  Run run({.name = "eager",
           .command = {"/bin/sh", "-c", "[ $OMPI_COMM_WORLD_RANK != 2 ] || unset LD_PRELOAD; exec ./eager $0"}});
  const CycleResult result = refused(run.cluster());
  CHECK_MESSAGE(says(result.why, "prepare the checkpoint: rank 2 (eager, pid "), result.why);
  CHECK_MESSAGE(says(result.why, "without Stillpoint's hook library: leave LD_PRELOAD"), result.why);
  run.ends_as_undisturbed();
}

// Debian has no static Open MPI and one MPI at a time; these are programs with an MPI of their own that does nothing
// (programs/foreign_mpi.c), linked in, and as a shared library by MPICH's name.
TEST_CASE("refuses_static_mpi") {
  Run run({.name = "static_mpi"});
  const CycleResult result = refused(run.cluster());
  // Of one guest; which of the two refuses first is not settled.
  CHECK_MESSAGE(says(result.why, "prepare the checkpoint: rank "), result.why);
  CHECK_MESSAGE(says(result.why, " (static_mpi, pid "), result.why);
  CHECK_MESSAGE(says(result.why, "link it with the shared libmpi.so"), result.why);
  run.ends_as_undisturbed();
}

TEST_CASE("refuses_other_mpi") {
  Run run({.name = "other_mpi", .files = {"libmpich.so.12"}});
  const CycleResult result = refused(run.cluster());
  CHECK_MESSAGE(says(result.why, "prepare the checkpoint: rank "), result.why);
  CHECK_MESSAGE(says(result.why, " (other_mpi, pid "), result.why);
  CHECK_MESSAGE(says(result.why, "libmpich.so.12: build it with the mpicc of the guest's Open MPI 5"), result.why);
  run.ends_as_undisturbed();
}

// The program chooses its transport itself, behind mpirun's back, and does without ULFM, which neither layer has. Both
// run over TCP here, as they do where there is no fast network.
TEST_CASE("refuses_transport") {
  const std::vector<std::string> cm = {"OMPI_MCA_pml=cm", "OMPI_MCA_mtl=ofi", "OMPI_MCA_mtl_ofi_provider_include=tcp"};
  const std::vector<std::string> ucx = {"OMPI_MCA_pml=ucx", "OMPI_MCA_pml_ucx_tls=any", "OMPI_MCA_pml_ucx_devices=any"};
  for (const auto& settings : {cm, ucx}) {
    Program program{.name = "transport", .command = {"/usr/bin/env", "OMPI_MCA_mpi_ft_enable=0"}};
    program.command.insert(program.command.end(), settings.begin(), settings.end());
    program.command.push_back("./transport");
    Run run(program);
    const CycleResult result = refused(run.cluster());
    const std::string layer = settings[0].substr(settings[0].find('=') + 1);
    CHECK_MESSAGE(says(result.why, "prepare the checkpoint: rank "), result.why);
    CHECK_MESSAGE(says(result.why, "the point-to-point layer " + layer), result.why);
    CHECK_MESSAGE(says(result.why, "remove OMPI_MCA_pml from the environment"), result.why);
    run.ends_as_undisturbed();
  }
}
