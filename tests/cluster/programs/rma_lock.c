/* Passive targets: lock and unlock, lock_all and flush, fetch and op, compare and swap, request-based operations. */
#include "suite.h"

enum { kWords = 3000 };
static uint64_t out[kWords], in[kWords];

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  const int right = (rank + 1) % size;
  uint64_t* memory; /* a counter, a lock word, then what the left one puts */
  MPI_Win window;
  MPI_Win_allocate(sizeof(uint64_t) * (kWords + 2), sizeof(uint64_t), MPI_INFO_NULL, MPI_COMM_WORLD, &memory, &window);
  memory[0] = memory[1] = 0;
  MPI_Barrier(MPI_COMM_WORLD);
  int round = 0;
  do {
    const int n = 1 + round * 41 % (kWords - 1);
    const uint64_t one = 1, zero = 0, me = (uint64_t)rank + 1;
    uint64_t before = 0;
    MPI_Win_lock(MPI_LOCK_EXCLUSIVE, 0, 0, window); /* all at the same one */
    MPI_Fetch_and_op(&one, &before, MPI_UINT64_T, 0, 0, MPI_SUM, window);
    MPI_Win_unlock(0, window);
    fill(out, n, rank, round);
    MPI_Win_lock_all(0, window);
    MPI_Put(out, n, MPI_UINT64_T, right, 2, n, MPI_UINT64_T, window);
    MPI_Win_flush(right, window);
    MPI_Request request;
    MPI_Rget(in, n, MPI_UINT64_T, right, 2, n, MPI_UINT64_T, window, &request);
    compute(round % 3 * 3000);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    expect(in, n, rank, round, "Rget");
    /* A spin lock at rank 0, taken and given back. */
    for (uint64_t old = 1; old != 0;) {
      MPI_Compare_and_swap(&me, &zero, &old, MPI_UINT64_T, 0, 1, window);
      MPI_Win_flush(0, window);
    }
    uint64_t was = 0;
    MPI_Fetch_and_op(&zero, &was, MPI_UINT64_T, 0, 1, MPI_REPLACE, window);
    MPI_Win_flush_all(window);
    expect_number(was, me, round, "the lock's owner");
    MPI_Win_unlock_all(window);
  } while (go_on(round++));
  MPI_Barrier(MPI_COMM_WORLD);
  if (rank == 0) expect_number(memory[0], (uint64_t)(round * size), round, "the counter");
  MPI_Win_free(&window);
  return suite_end(round);
}
