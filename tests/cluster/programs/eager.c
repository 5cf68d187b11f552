/* Short messages between all pairs, many at a time, down to none at all. */
#include "suite.h"

enum { kBurst = 8, kMost = 64 };

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  static uint64_t out[kBurst][kMost], in[kMost];
  MPI_Request* requests = malloc(sizeof(MPI_Request) * kBurst * (size_t)size);
  int round = 0;
  do {
    int open = 0;
    for (int i = 0; i < kBurst; i++) {
      const int count = (round * 7 + i * 9) % kMost;
      fill(out[i], count, rank, round * kBurst + i);
      for (int to = 0; to < size; to++)
        if (to != rank) MPI_Isend(out[i], count, MPI_UINT64_T, to, i, MPI_COMM_WORLD, &requests[open++]);
    }
    compute(round % 5 * 2000 * (rank + 1));
    for (int from = 0; from < size; from++)
      for (int i = 0; from != rank && i < kBurst; i++) {
        const int count = (round * 7 + i * 9) % kMost;
        MPI_Recv(in, kMost, MPI_UINT64_T, from, i, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        expect(in, count, from, round * kBurst + i, "Recv");
      }
    MPI_Waitall(open, requests, MPI_STATUSES_IGNORE);
  } while (go_on(round++));
  free(requests);
  return suite_end(round);
}
