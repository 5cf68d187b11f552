/* Matched probes and receives, and cancelled receives. */
#include "suite.h"

enum { kMost = 12000 };
static uint64_t out[kMost], in[kMost], never[8];

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  const int right = (rank + 1) % size, left = (rank + size - 1) % size;
  int round = 0;
  do {
    MPI_Request sends[2], waits;
    MPI_Status status;
    MPI_Message message;
    int count = 1 + round * 53 % (kMost - 1), arrived = 0, cancelled = 0, got;
    fill(out, count, rank, round);
    MPI_Isend(out, count, MPI_UINT64_T, right, 1, MPI_COMM_WORLD, &sends[0]);
    MPI_Isend(out, count, MPI_UINT64_T, right, 2, MPI_COMM_WORLD, &sends[1]);

    MPI_Mprobe(MPI_ANY_SOURCE, 1, MPI_COMM_WORLD, &message, &status);
    MPI_Get_count(&status, MPI_UINT64_T, &got);
    MPI_Mrecv(in, got, MPI_UINT64_T, &message, MPI_STATUS_IGNORE);
    expect_number((uint64_t)got, (uint64_t)count, round, "Mprobe");
    expect(in, got, left, round, "Mrecv");

    while (!arrived) MPI_Improbe(left, 2, MPI_COMM_WORLD, &arrived, &message, &status);
    compute(round % 4 * 5000);
    MPI_Imrecv(in, count, MPI_UINT64_T, &message, &waits);
    MPI_Wait(&waits, MPI_STATUS_IGNORE);
    expect(in, count, left, round, "Imrecv");

    MPI_Irecv(never, 8, MPI_UINT64_T, left, 77, MPI_COMM_WORLD, &waits);
    if (round % 2) compute(20000);
    MPI_Cancel(&waits);
    MPI_Wait(&waits, &status);
    MPI_Test_cancelled(&status, &cancelled);
    expect_number((uint64_t)cancelled, 1, round, "Cancel");
    MPI_Waitall(2, sends, MPI_STATUSES_IGNORE);
  } while (go_on(round++));
  return suite_end(round);
}
