/* The modes of sending: synchronous, buffered, ready; blocking and not. */
#include "suite.h"

enum { kMost = 20000 };
static uint64_t out[kMost], in[6][kMost];

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  const int buffered = 4 * (kMost * 8 + MPI_BSEND_OVERHEAD);
  void* buffer = malloc((size_t)buffered);
  MPI_Buffer_attach(buffer, buffered);
  const int right = (rank + 1) % size, left = (rank + size - 1) % size;
  int round = 0;
  do {
    const int count = 1 + round * 37 % (kMost - 1);
    MPI_Request receives[6], sends[3];
    fill(out, count, rank, round);
    /* The receives of the ready sends are there before those begin. */
    for (int i = 0; i < 6; i++) MPI_Irecv(in[i], count, MPI_UINT64_T, left, i, MPI_COMM_WORLD, &receives[i]);
    MPI_Sendrecv(NULL, 0, MPI_BYTE, left, 9, NULL, 0, MPI_BYTE, right, 9, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Rsend(out, count, MPI_UINT64_T, right, 0, MPI_COMM_WORLD);
    MPI_Irsend(out, count, MPI_UINT64_T, right, 1, MPI_COMM_WORLD, &sends[0]);
    MPI_Bsend(out, count, MPI_UINT64_T, right, 2, MPI_COMM_WORLD);
    MPI_Ibsend(out, count, MPI_UINT64_T, right, 3, MPI_COMM_WORLD, &sends[1]);
    MPI_Ssend(out, count, MPI_UINT64_T, right, 4, MPI_COMM_WORLD);
    MPI_Issend(out, count, MPI_UINT64_T, right, 5, MPI_COMM_WORLD, &sends[2]);
    MPI_Waitall(3, sends, MPI_STATUSES_IGNORE);
    MPI_Waitall(6, receives, MPI_STATUSES_IGNORE);
    for (int i = 0; i < 6; i++) expect(in[i], count, left, round, "a mode");
    if (round % 10 == 9) {
      MPI_Buffer_detach(&buffer, &(int){0}); /* waits until all is sent */
      MPI_Buffer_attach(buffer, buffered);
    }
  } while (go_on(round++));
  MPI_Buffer_detach(&buffer, &(int){0});
  free(buffer);
  return suite_end(round);
}
