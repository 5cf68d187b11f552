/* One-sided access between fences: Put, Get, Accumulate, long and short. */
#include "suite.h"

enum { kWords = 20000 };
static uint64_t out[kWords], in[kWords];

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  const int right = (rank + 1) % size, left = (rank + size - 1) % size;
  uint64_t* memory; /* what the left one puts, then one sum */
  MPI_Win window;
  MPI_Win_allocate(sizeof(uint64_t) * (kWords + 1), sizeof(uint64_t), MPI_INFO_NULL, MPI_COMM_WORLD, &memory, &window);
  memory[kWords] = 0;
  uint64_t sum = 0;
  int round = 0;
  MPI_Win_fence(0, window);
  do {
    const int n = 1 + round * 71 % (kWords - 1);
    const uint64_t mine = word(rank, round, 0);
    fill(out, n, rank, round);
    MPI_Put(out, n, MPI_UINT64_T, right, 0, n, MPI_UINT64_T, window);
    for (int to = 0; to < size; to++) {
      MPI_Accumulate(&mine, 1, MPI_UINT64_T, to, kWords, 1, MPI_UINT64_T, MPI_SUM, window);
      sum += word(to, round, 0);
    }
    compute(round % 4 * 4000);
    MPI_Win_fence(0, window);
    expect(memory, n, left, round, "Put");
    expect_number(memory[kWords], sum, round, "Accumulate");
    MPI_Win_fence(0, window);
    MPI_Get(in, n, MPI_UINT64_T, right, 0, n, MPI_UINT64_T, window);
    MPI_Win_fence(0, window);
    expect(in, n, rank, round, "Get");
  } while (go_on(round++));
  MPI_Win_free(&window);
  return suite_end(round);
}
