#include "mpi-hooks/core/partitioned_sends.h"

#include <doctest/doctest.h>

#include <vector>

using stillpoint::hooks::PartitionedSends;

TEST_CASE("a send has unready parts from its start until the last one is ready") {
  PartitionedSends sends;
  const int request = 0;
  REQUIRE(sends.made(&request, 3));
  CHECK_FALSE(sends.any_unready());
  for (int round = 0; round < 2; ++round) {
    sends.started(&request);
    CHECK(sends.any_unready());
    sends.ready(&request, 1);
    CHECK(sends.any_unready());
    sends.ready(&request, 2);
    CHECK_FALSE(sends.any_unready());
  }
}

TEST_CASE("other requests are none of its business") {
  PartitionedSends sends;
  const int partitioned = 0, persistent = 0;
  sends.started(&persistent);
  CHECK_FALSE(sends.any_unready());
  REQUIRE(sends.made(&partitioned, 2));
  sends.started(&persistent);
  sends.forget(&persistent);
  CHECK_FALSE(sends.any_unready());
}

TEST_CASE("a refused start, a freed request and too many ready parts leave nothing behind") {
  PartitionedSends sends;
  const int refused = 0, freed = 0, wrong = 0;
  for (const int* request : {&refused, &freed, &wrong}) REQUIRE(sends.made(request, 4));
  for (const int* request : {&refused, &freed, &wrong}) sends.started(request);
  sends.not_started(&refused);
  sends.forget(&freed);
  CHECK(sends.any_unready());
  sends.ready(&wrong, 5);
  CHECK_FALSE(sends.any_unready());
  sends.started(&freed);
  CHECK_FALSE(sends.any_unready());
}

TEST_CASE("more sends than the first table holds") {
  PartitionedSends sends;
  std::vector<int> requests(100);
  for (const int& request : requests) REQUIRE(sends.made(&request, 1));
  for (const int& request : requests) sends.started(&request);
  for (const int& request : requests) {
    CHECK(sends.any_unready());
    sends.ready(&request, 1);
  }
  CHECK_FALSE(sends.any_unready());
  for (const int& request : requests) sends.forget(&request);
}
