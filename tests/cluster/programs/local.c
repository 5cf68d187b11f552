/* A rank to itself, and ranks of one guest to each other through shared memory, short and long. */
#include "suite.h"

enum { kMost = 1 << 16 };
static uint64_t out[kMost], in[kMost], self_in[kMost];

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  MPI_Comm guest;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &guest);
  int me, mates;
  MPI_Comm_rank(guest, &me);
  MPI_Comm_size(guest, &mates);
  int round = 0;
  do {
    const int count = 1 << (round % 17), to = (me + 1) % mates, from = (me + mates - 1) % mates;
    MPI_Request requests[4];
    fill(out, count, rank, round);
    MPI_Irecv(self_in, count, MPI_UINT64_T, 0, 1, MPI_COMM_SELF, &requests[0]);
    MPI_Irecv(in, count, MPI_UINT64_T, from, 2, guest, &requests[1]);
    MPI_Isend(out, count, MPI_UINT64_T, 0, 1, MPI_COMM_SELF, &requests[2]);
    MPI_Isend(out, count, MPI_UINT64_T, to, 2, guest, &requests[3]);
    MPI_Waitall(4, requests, MPI_STATUSES_IGNORE);
    expect(self_in, count, rank, round, "to itself");
    expect(in, count, rank - me + from, round, "from a mate");
    MPI_Barrier(guest);
  } while (go_on(round++));
  MPI_Comm_free(&guest);
  return suite_end(round);
}
