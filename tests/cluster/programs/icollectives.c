/* Nonblocking collectives, several under way at once, driven by tests and by waits. */
#include "collectives.h"

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  int round = 0;
  do {
    const int n = 1 << (round % 12), root = round % size;
    MPI_Request requests[6];
    give_words(n, round);
    MPI_Iallgather(give, n, MPI_UINT64_T, get, n, MPI_UINT64_T, MPI_COMM_WORLD, &requests[0]);
    MPI_Ialltoall(give, n, MPI_UINT64_T, get2, n, MPI_UINT64_T, MPI_COMM_WORLD, &requests[1]);
    MPI_Iallreduce(give, get3, n, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD, &requests[2]);
    MPI_Ibarrier(MPI_COMM_WORLD, &requests[3]);
    compute(round % 5 * 4000);
    MPI_Ireduce(give, get3 + kMost, n, MPI_UINT64_T, MPI_SUM, root, MPI_COMM_WORLD, &requests[4]);
    memcpy(get3 + 2 * kMost, give, sizeof(uint64_t) * (size_t)n);
    MPI_Ibcast(get3 + 2 * kMost, n, MPI_UINT64_T, root, MPI_COMM_WORLD, &requests[5]);
    if (round % 2 == 0)
      for (int done = 0; !done; compute(100)) MPI_Testall(6, requests, &done, MPI_STATUSES_IGNORE);
    else
      for (int i = 0, which; i < 6; i++) MPI_Waitany(6, requests, &which, MPI_STATUS_IGNORE);
    expect_all(get, n, round, "Iallgather");
    expect_blocks(get2, n, round, "Ialltoall");
    expect_sum(get3, 0, n, size, round, "Iallreduce");
    if (rank == root) expect_sum(get3 + kMost, 0, n, size, round, "Ireduce");
    expect(get3 + 2 * kMost, n, root, round, "Ibcast");
    lay_out(round);
    MPI_Iallgatherv(give, counts[rank], MPI_UINT64_T, get, counts, places, MPI_UINT64_T, MPI_COMM_WORLD, &requests[0]);
    MPI_Iscan(give, get2, n, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD, &requests[1]);
    MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
    expect_shares(get, round, "Iallgatherv");
    expect_sum(get2, 0, n, rank + 1, round, "Iscan");
  } while (go_on(round++));
  return suite_end(round);
}
