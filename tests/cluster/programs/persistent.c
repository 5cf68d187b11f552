/* Persistent requests, started and waited for again and again, made anew now and then. */
#include "suite.h"

enum { kShort = 100, kLong = 40000 };
static uint64_t out[2][kLong], in[2][2][kLong];

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  const int right = (rank + 1) % size, left = (rank + size - 1) % size, count[2] = {kShort, kLong};
  MPI_Request requests[8];
  int round = 0;
  do {
    if (round % 20 == 0) {
      for (int i = 0; round > 0 && i < 8; i++) MPI_Request_free(&requests[i]);
      for (int i = 0; i < 2; i++) {
        MPI_Recv_init(in[i][0], count[i], MPI_UINT64_T, left, i, MPI_COMM_WORLD, &requests[i]);
        MPI_Recv_init(in[i][1], count[i], MPI_UINT64_T, right, 4 + i, MPI_COMM_WORLD, &requests[2 + i]);
        MPI_Send_init(out[i], count[i], MPI_UINT64_T, right, i, MPI_COMM_WORLD, &requests[4 + i]);
        MPI_Ssend_init(out[i], count[i], MPI_UINT64_T, left, 4 + i, MPI_COMM_WORLD, &requests[6 + i]);
      }
    }
    for (int i = 0; i < 2; i++) fill(out[i], count[i], rank, 2 * round + i);
    MPI_Startall(4, requests);
    compute(round % 3 * 3000);
    for (int i = 4; i < 8; i++) MPI_Start(&requests[i]);
    MPI_Waitall(8, requests, MPI_STATUSES_IGNORE);
    for (int i = 0; i < 2; i++) {
      expect(in[i][0], count[i], left, 2 * round + i, "from the left");
      expect(in[i][1], count[i], right, 2 * round + i, "from the right");
    }
  } while (go_on(round++));
  for (int i = 0; i < 8; i++) MPI_Request_free(&requests[i]);
  return suite_end(round);
}
