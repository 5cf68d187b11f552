/* Persistent collectives. */
#include "collectives.h"

enum { kWords = 700 };
int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  MPI_Request requests[5];
  int round = 0;
  do {
    if (round % 25 == 0) {
      for (int i = 0; round > 0 && i < 5; i++) MPI_Request_free(&requests[i]);
      MPI_Allreduce_init(give, get, kWords, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD, MPI_INFO_NULL, &requests[0]);
      MPI_Alltoall_init(give, kWords, MPI_UINT64_T, get2, kWords, MPI_UINT64_T, MPI_COMM_WORLD, MPI_INFO_NULL, &requests[1]);
      MPI_Allgather_init(give, kWords, MPI_UINT64_T, get3, kWords, MPI_UINT64_T, MPI_COMM_WORLD, MPI_INFO_NULL, &requests[2]);
      MPI_Bcast_init(get + kMost, kWords, MPI_UINT64_T, 1 % size, MPI_COMM_WORLD, MPI_INFO_NULL, &requests[3]);
      MPI_Barrier_init(MPI_COMM_WORLD, MPI_INFO_NULL, &requests[4]);
    }
    fill(give, kWords * size, rank, round);
    memcpy(get + kMost, give, sizeof(uint64_t) * kWords);
    MPI_Startall(5, requests);
    compute(round % 4 * 3000);
    MPI_Waitall(5, requests, MPI_STATUSES_IGNORE);
    expect_sum(get, 0, kWords, size, round, "Allreduce_init");
    expect_blocks(get2, kWords, round, "Alltoall_init");
    expect_all(get3, kWords, round, "Allgather_init");
    expect(get + kMost, kWords, 1 % size, round, "Bcast_init");
  } while (go_on(round++));
  for (int i = 0; i < 5; i++) MPI_Request_free(&requests[i]);
  return suite_end(round);
}
