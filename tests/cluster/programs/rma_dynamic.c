/* A dynamic window: memory attached and detached as the program goes on; and windows made and freed. */
#include "suite.h"

enum { kWords = 5000 };
static uint64_t out[kWords];

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  const int right = (rank + 1) % size, left = (rank + size - 1) % size;
  MPI_Win window;
  MPI_Win_create_dynamic(MPI_INFO_NULL, MPI_COMM_WORLD, &window);
  int round = 0;
  do {
    const int n = 1 + round * 43 % (kWords - 1);
    uint64_t* memory = malloc(sizeof(uint64_t) * kWords);
    MPI_Win_attach(window, memory, sizeof(uint64_t) * kWords);
    MPI_Aint mine, theirs;
    MPI_Get_address(memory, &mine);
    MPI_Sendrecv(&mine, 1, MPI_AINT, left, 1, &theirs, 1, MPI_AINT, right, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    fill(out, n, rank, round);
    MPI_Win_lock(MPI_LOCK_SHARED, right, 0, window);
    MPI_Put(out, n, MPI_UINT64_T, right, theirs, n, MPI_UINT64_T, window);
    MPI_Win_unlock(right, window);
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Win_lock(MPI_LOCK_SHARED, rank, 0, window);
    expect(memory, n, left, round, "attached memory");
    MPI_Win_unlock(rank, window);
    MPI_Win_detach(window, memory);
    free(memory);

    if (round % 8 == 3) {
      uint64_t there = 0, here = word(rank, round, 1);
      MPI_Win shortly;
      MPI_Win_create(&there, sizeof there, 1, MPI_INFO_NULL, MPI_COMM_WORLD, &shortly);
      MPI_Win_fence(0, shortly);
      MPI_Put(&here, 1, MPI_UINT64_T, right, 0, 1, MPI_UINT64_T, shortly);
      MPI_Win_fence(0, shortly);
      expect_number(there, word(left, round, 1), round, "a window made and freed");
      MPI_Win_free(&shortly);
    }
  } while (go_on(round++));
  MPI_Win_free(&window);
  return suite_end(round);
}
