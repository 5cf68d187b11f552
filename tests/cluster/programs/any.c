/* ANY_SOURCE and ANY_TAG: one rank takes what comes, as it comes, and answers each sender. */
#include "suite.h"

enum { kEach = 6, kMost = 3000 };
static uint64_t data[kMost];

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  int round = 0;
  do {
    const int master = round % size;
    if (rank == master) {
      uint64_t sum = 0;
      for (int i = 0; i < kEach * (size - 1); i++) {
        MPI_Status status;
        int count;
        if (i % 2 == 0) MPI_Probe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &status);
        MPI_Recv(data, kMost, MPI_UINT64_T, i % 2 == 0 ? status.MPI_SOURCE : MPI_ANY_SOURCE,
                 i % 2 == 0 ? status.MPI_TAG : MPI_ANY_TAG, MPI_COMM_WORLD, &status);
        MPI_Get_count(&status, MPI_UINT64_T, &count);
        for (int j = 0; j < count; j++)
          if (data[j] != word(status.MPI_SOURCE, round * kEach + status.MPI_TAG, j)) give_up("round %d: wrong word", round);
        sum += data[0] + (uint64_t)count;
        MPI_Send(data, 1, MPI_UINT64_T, status.MPI_SOURCE, kEach + status.MPI_TAG, MPI_COMM_WORLD);
      }
      fold(sum); /* whatever the order was */
    } else {
      for (int i = 0; i < kEach; i++) {
        const int count = 1 + (round * 131 + i * 17 + rank) % (kMost - 1);
        uint64_t answer = 0;
        fill(data, count, rank, round * kEach + i);
        MPI_Send(data, count, MPI_UINT64_T, master, i, MPI_COMM_WORLD);
        MPI_Recv(&answer, 1, MPI_UINT64_T, master, kEach + i, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        expect(&answer, 1, rank, round * kEach + i, "answer");
      }
    }
  } while (go_on(round++));
  return suite_end(round);
}
