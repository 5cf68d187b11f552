/* Long messages, contiguous and strided, to both neighbours at once; some receives are posted late. */
#include "suite.h"

enum { kMost = 1 << 17 }; /* words: 1 MiB */
static uint64_t out[kMost], in[2][kMost], strided[2 * kMost];

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  const int right = (rank + 1) % size, left = (rank + size - 1) % size;
  int round = 0;
  do {
    const int count = (1 << (11 + round % 7)) - round % 3; /* 16 KiB … 1 MiB */
    MPI_Request requests[4];
    fill(out, count, rank, round);
    MPI_Isend(out, count, MPI_UINT64_T, right, 1, MPI_COMM_WORLD, &requests[0]);
    MPI_Isend(out, count, MPI_UINT64_T, left, 2, MPI_COMM_WORLD, &requests[1]);
    if (rank % 2 == round % 2) compute(200000);
    MPI_Irecv(in[0], count, MPI_UINT64_T, left, 1, MPI_COMM_WORLD, &requests[2]);
    MPI_Irecv(in[1], count, MPI_UINT64_T, right, 2, MPI_COMM_WORLD, &requests[3]);
    if (round % 3 == 0)
      for (int done = 0; !done;) MPI_Testall(4, requests, &done, MPI_STATUSES_IGNORE);
    else
      MPI_Waitall(4, requests, MPI_STATUSES_IGNORE);
    expect(in[0], count, left, round, "from the left");
    expect(in[1], count, right, round, "from the right");

    MPI_Datatype every_other;
    MPI_Type_vector(count / 2, 1, 2, MPI_UINT64_T, &every_other);
    MPI_Type_commit(&every_other);
    for (int i = 0; i < count / 2; i++) strided[2 * i] = out[i];
    MPI_Sendrecv(strided, 1, every_other, right, 3, in[0], count / 2, MPI_UINT64_T, left, 3, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    expect(in[0], count / 2, left, round, "strided");
    MPI_Type_free(&every_other);
  } while (go_on(round++));
  return suite_end(round);
}
