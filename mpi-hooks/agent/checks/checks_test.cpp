// The checks against made-up processes, and what they read against a made-up /proc.
#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "mpi-hooks/agent/checks/check.h"
#include "mpi-hooks/agent/socket_owners.h"

using namespace stillpoint::agent;

namespace {

struct FakeProc {
  FakeProc() {
    char name[] = "/tmp/stillpoint-proc-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    root = name;
  }
  ~FakeProc() { std::filesystem::remove_all(root); }
  void process(int pid, const std::string& maps, const std::vector<std::string>& fds, const std::string& program = "") {
    const auto at = root / std::to_string(pid);
    std::filesystem::create_directories(at / "fd");
    std::ofstream(at / "maps") << maps;
    std::ofstream(at / "comm") << "heat\n";
    std::ofstream(at / "stat") << pid << " (he) T (at) S 1 1 1\n";
    std::ofstream(at / "exe") << program;
    for (std::size_t i = 0; i < fds.size(); ++i) std::filesystem::create_symlink(fds[i], at / "fd" / std::to_string(i));
  }
  std::filesystem::path root;
};

std::string line(const std::string& file) {
  return "7f00-7f01 r-xp 00000000 fe:00 4711                       " + file + "\n";
}

const std::string kLibc = line("/usr/lib/libc.so.6");
const std::string kHooks = line("/run/stillpoint/libstillpoint-mpi.so");
const std::string kOpenMpi = line("/usr/lib/x86_64-linux-gnu/libmpi.so.40.40.7");

// What the checks say of a process with these.
std::string finding(const std::string& maps, const std::vector<std::string>& fds = {}, const std::string& program = "",
                    const OutsideSockets& outside = {}) {
  FakeProc fake;
  fake.process(12, maps, fds, program);
  const Proc proc(fake.root);
  return examine({proc, 12, false, "", proc.mapped_files(12), proc.open_files(12), outside}).value_or("");
}

bool says(const std::string& text, const char* part) { return text.find(part) != text.npos; }

}  // namespace

TEST_CASE("a process is read from /proc; one that is gone has nothing") {
  FakeProc fake;
  fake.process(12, kLibc + line("/usr/lib/libc.so.6") + "7f02-7f03 rw-p 00000000 00:00 0 \n",
               {"/dev/null", "socket:[77]"});
  const Proc proc(fake.root);
  CHECK(proc.mapped_files(12) == std::vector<std::string>{"/usr/lib/libc.so.6"});
  CHECK(proc.open_files(12).size() == 2);
  CHECK(proc.name(12) == "heat");
  CHECK(proc.state(12) == 'S');
  CHECK(proc.mapped_files(13).empty());
  CHECK(proc.open_files(13).empty());
  CHECK(proc.state(13) == '\0');
}

TEST_CASE("an ordinary rank, a shell and mpirun are fine") {
  CHECK(finding(kLibc + kHooks + kOpenMpi, {"/dev/null", "socket:[1]"}) == "");
  CHECK(finding(kLibc, {}, "#!/bin/sh") == "");
  CHECK(finding(kLibc + line("/usr/lib/libprrte.so.3") + line("/usr/lib/libpmix.so.2"), {}, "PMPI_Init") == "");
}

TEST_CASE("MPI that is linked into the program") {
  CHECK(says(finding(line("/job/heat"), {},
                     std::string("\x7f"
                                 "ELF\0\0ompi_mpi_init\0",
                                 20)),
             "shared libmpi.so"));
  // A program that is about to load libmpi names it.
  CHECK(finding(line("/job/heat"), {}, "PMPI_Init libmpi.so.40") == "");
}

TEST_CASE("another MPI library") {
  CHECK(says(finding(kLibc + kHooks + line("/opt/mpich/lib/libmpi.so.12.3.0")), "/opt/mpich/lib/libmpi.so.12.3.0"));
  CHECK(says(finding(kLibc + line("/usr/lib/libmpich.so.12")), "the guest's Open MPI 5"));
}

TEST_CASE("a rank without the hook library") { CHECK(says(finding(kLibc + kOpenMpi), "LD_PRELOAD")); }

TEST_CASE("a point-to-point layer other than ob1") {
  const Proc proc("/nonexistent");
  for (const char* layer : {"ucx", "cm"}) CHECK(says(examine({proc, 12, true, layer, {}, {}, {}}).value_or(""), layer));
  for (const char* layer : {"ob1", ""}) CHECK_FALSE(examine({proc, 12, true, layer, {}, {}, {}}).has_value());
}

TEST_CASE("an open RDMA device") {
  CHECK(says(finding(kLibc + kHooks + kOpenMpi, {"/dev/infiniband/uverbs0"}), "/dev/infiniband/uverbs0"));
}

TEST_CASE("a connection out of the gang is the process's that holds its socket") {
  const OutsideSockets outside{{77, "TCP 10.99.0.1:5000 -> 192.0.2.1:443"}};
  CHECK(says(finding(kLibc, {"socket:[77]"}, "", outside), "10.99.0.1:5000 -> 192.0.2.1:443"));
  CHECK(finding(kLibc, {"socket:[78]"}, "", outside) == "");
}

TEST_CASE("a socket's owner is found and kept; another's is nobody's") {
  FakeProc fake;
  fake.process(12, "", {"socket:[77]"});
  fake.process(13, "", {"/dev/null", "socket:[78]"});
  SocketOwners owners{Proc(fake.root)};
  CHECK(owners.owner(78, {12, 13}).pid == 13);
  CHECK(owners.owner(78, {12, 13}).fd == 1);
  CHECK(owners.owner(77, {12, 13}).pid == 12);
  CHECK(owners.owner(79, {12, 13}).pid == 0);
  std::filesystem::remove_all(fake.root / "12");
  CHECK(owners.owner(77, {12, 13}).pid == 12);
  owners.forget();
  CHECK(owners.owner(77, {13}).pid == 0);
}
