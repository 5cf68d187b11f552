/* Neighbourhood collectives on a periodic ring and on a graph: blocking, nonblocking, persistent. */
#include "suite.h"

enum { kWords = 600 };
static uint64_t out[2 * kWords], in[2 * kWords], in2[2 * kWords];

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  const int right = (rank + 1) % size, left = (rank + size - 1) % size;
  MPI_Comm ring, graph;
  MPI_Cart_create(MPI_COMM_WORLD, 1, &size, &(int){1}, 0, &ring);
  MPI_Dist_graph_create_adjacent(MPI_COMM_WORLD, 2, (int[]){left, right}, MPI_UNWEIGHTED, 2, (int[]){left, right},
                                 MPI_UNWEIGHTED, MPI_INFO_NULL, 0, &graph);
  MPI_Request persistent;
  MPI_Neighbor_allgather_init(out, kWords, MPI_UINT64_T, in2, kWords, MPI_UINT64_T, graph, MPI_INFO_NULL, &persistent);
  int round = 0;
  do {
    const int n = 1 + round * 31 % (kWords - 1);
    fill(out, 2 * kWords, rank, round);
    MPI_Neighbor_allgather(out, n, MPI_UINT64_T, in, n, MPI_UINT64_T, ring);
    expect(in, n, left, round, "Neighbor_allgather, left");
    expect(in + n, n, right, round, "Neighbor_allgather, right");

    MPI_Request request;
    MPI_Ineighbor_alltoall(out, kWords, MPI_UINT64_T, in, kWords, MPI_UINT64_T, graph, &request);
    compute(round % 3 * 4000);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    /* The left neighbour's second block is for its right: this one. */
    for (int i = 0; size > 2 && i < kWords; i++) {
      expect_number(in[i], word(left, round, kWords + i), round, "Ineighbor_alltoall, left");
      expect_number(in[kWords + i], word(right, round, i), round, "Ineighbor_alltoall, right");
    }
    MPI_Start(&persistent);
    MPI_Wait(&persistent, MPI_STATUS_IGNORE);
    expect(in2, kWords, left, round, "Neighbor_allgather_init, left");
    expect(in2 + kWords, kWords, right, round, "Neighbor_allgather_init, right");

    const int counts[2] = {n, n}, places[2] = {0, kWords};
    MPI_Neighbor_allgatherv(out, n, MPI_UINT64_T, in, counts, places, MPI_UINT64_T, graph);
    expect(in + kWords, n, right, round, "Neighbor_allgatherv");
  } while (go_on(round++));
  MPI_Request_free(&persistent);
  MPI_Comm_free(&ring);
  MPI_Comm_free(&graph);
  return suite_end(round);
}
