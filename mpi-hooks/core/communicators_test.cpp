#include "mpi-hooks/core/communicators.h"

#include <doctest/doctest.h>

#include <string>

using namespace stillpoint::hooks;

TEST_CASE("a communicator is found by its handle until it is freed") {
  static Communicators all;
  int a = 0, b = 0;
  all.remember(&a, 4, "MPI_COMM_WORLD");
  all.remember(&b, 2, "rows");
  CommunicatorNote note;
  REQUIRE(all.find(&b, note));
  CHECK(std::string(note.name) == "rows");
  CHECK(note.peers == 2);
  all.forget(&a);
  CHECK_FALSE(all.find(&a, note));
  CHECK(all.find(&b, note));
  all.forget(&a);  // freed without ever being noted: nothing happens
  CHECK_FALSE(all.find(nullptr, note));
}

TEST_CASE("a new name replaces the old one, and a long one is cut short") {
  static Communicators all;
  int a = 0;
  all.remember(&a, 4, "MPI COMMUNICATOR 3 DUP FROM 0");
  all.remember(&a, 4, std::string(100, 'x').c_str());
  CommunicatorNote note;
  REQUIRE(all.find(&a, note));
  CHECK(std::string(note.name) == std::string(39, 'x'));
}

TEST_CASE("what does not fit is not known, and room comes back with what is freed") {
  static Communicators all;
  static char handles[Communicators::kMost + 1];
  for (char& handle : handles) all.remember(&handle, 1, "c");
  CommunicatorNote note;
  CHECK(all.find(&handles[Communicators::kMost - 1], note));
  CHECK_FALSE(all.find(&handles[Communicators::kMost], note));
  all.forget(&handles[0]);
  all.remember(&handles[Communicators::kMost], 3, "late");
  REQUIRE(all.find(&handles[Communicators::kMost], note));
  CHECK(note.peers == 3);
}
