/* Blocking collectives. */
#include "collectives.h"

#define WORLD MPI_UINT64_T, MPI_COMM_WORLD
int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  int round = 0;
  do {
    const int n = 1 << (round % 12), root = round % size;
    give_words(n, round);
    memcpy(get, give, sizeof(uint64_t) * (size_t)n);
    MPI_Bcast(get, n, MPI_UINT64_T, root, MPI_COMM_WORLD);
    expect(get, n, root, round, "Bcast");
    MPI_Allgather(give, n, MPI_UINT64_T, get, n, WORLD);
    expect_all(get, n, round, "Allgather");
    MPI_Alltoall(give, n, MPI_UINT64_T, get, n, WORLD);
    expect_blocks(get, n, round, "Alltoall");
    MPI_Allreduce(give, get, n, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    expect_sum(get, 0, n, size, round, "Allreduce");
    MPI_Scan(give, get, n, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    expect_sum(get, 0, n, rank + 1, round, "Scan");
    MPI_Exscan(give, get, n, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    if (rank > 0) expect_sum(get, 0, n, rank, round, "Exscan");
    MPI_Reduce_scatter_block(give, get, n, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    expect_sum(get, rank * n, n, size, round, "Reduce_scatter_block");
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Reduce(give, get, n, MPI_UINT64_T, MPI_SUM, root, MPI_COMM_WORLD);
    if (rank == root) expect_sum(get, 0, n, size, round, "Reduce");
    MPI_Gather(give, n, MPI_UINT64_T, get, n, MPI_UINT64_T, root, MPI_COMM_WORLD);
    if (rank == root) expect_all(get, n, round, "Gather");
    MPI_Scatter(give, n, MPI_UINT64_T, get, n, MPI_UINT64_T, root, MPI_COMM_WORLD);
    for (int i = 0; i < n; i++) expect_number(get[i], word(root, round, rank * n + i), round, "Scatter");
    lay_out(round);
    MPI_Allgatherv(give, counts[rank], MPI_UINT64_T, get, counts, places, WORLD);
    expect_shares(get, round, "Allgatherv");
    MPI_Gatherv(give, counts[rank], MPI_UINT64_T, get, counts, places, MPI_UINT64_T, root, MPI_COMM_WORLD);
    if (rank == root) expect_shares(get, round, "Gatherv");
    MPI_Reduce_scatter(give, get, counts, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    expect_sum(get, places[rank], counts[rank], size, round, "Reduce_scatter");
  } while (go_on(round++));
  return suite_end(round);
}
