/* The lower half accepts, the upper half connects, again and again: MPI_Comm_accept, MPI_Comm_connect. */
#include "suite.h"

enum { kWords = 4000, kEvery = 20 };
static uint64_t out[kWords], in[kWords];

static MPI_Comm meet(int accepts, const char* port, MPI_Comm half) {
  MPI_Comm others;
  if (accepts) MPI_Comm_accept(port, MPI_INFO_NULL, 0, half, &others);
  else MPI_Comm_connect(port, MPI_INFO_NULL, 0, half, &others);
  return others;
}

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  const int accepts = rank < size / 2;
  const int peer = accepts ? rank + size / 2 : rank - size / 2;
  char port[MPI_MAX_PORT_NAME] = "";
  MPI_Comm half, others = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, accepts, rank, &half);
  int round = 0;
  do {
    if (round % kEvery == 0) {
      if (others != MPI_COMM_NULL) MPI_Comm_disconnect(&others);
      if (rank == 0) MPI_Open_port(MPI_INFO_NULL, port);
      MPI_Bcast(port, MPI_MAX_PORT_NAME, MPI_CHAR, 0, MPI_COMM_WORLD);
      others = meet(accepts, port, half);
      if (rank == 0) MPI_Close_port(port);
    }
    const int n = 1 + round * 31 % (kWords - 1);
    fill(out, n, rank, round);
    MPI_Sendrecv(out, n, MPI_UINT64_T, peer % (size / 2), 3, in, n, MPI_UINT64_T, peer % (size / 2), 3, others,
                 MPI_STATUS_IGNORE);
    expect(in, n, peer, round, "from the other half");
    usleep(1000);
  } while (go_on(round++));
  MPI_Comm_disconnect(&others);
  MPI_Comm_free(&half);
  return suite_end(round);
}
