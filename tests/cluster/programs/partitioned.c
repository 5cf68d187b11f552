/* Partitioned communication: parts become ready and arrive one by one. */
#include "suite.h"

enum { kParts = 8, kPart = 2000 };
static uint64_t out[kParts * kPart], in[kParts * kPart];

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  const int right = (rank + 1) % size, left = (rank + size - 1) % size;
  MPI_Request send, receive;
  MPI_Psend_init(out, kParts, kPart, MPI_UINT64_T, right, 5, MPI_COMM_WORLD, MPI_INFO_NULL, &send);
  MPI_Precv_init(in, kParts, kPart, MPI_UINT64_T, left, 5, MPI_COMM_WORLD, MPI_INFO_NULL, &receive);
  int round = 0;
  do {
    MPI_Start(&receive);
    MPI_Start(&send);
    for (int i = 0; i < kParts; i++) {
      const int part = (i * 3 + round) % kParts;
      fill(out + part * kPart, kPart, rank, round * kParts + part);
      MPI_Pready(part, send);
      compute(2000);
    }
    for (int part = 0; part < kParts; part++) {
      int there = 0;
      while (!there) MPI_Parrived(receive, part, &there);
      expect(in + part * kPart, kPart, left, round * kParts + part, "Parrived");
    }
    MPI_Wait(&send, MPI_STATUS_IGNORE);
    MPI_Wait(&receive, MPI_STATUS_IGNORE);
  } while (go_on(round++));
  MPI_Request_free(&send);
  MPI_Request_free(&receive);
  return suite_end(round);
}
