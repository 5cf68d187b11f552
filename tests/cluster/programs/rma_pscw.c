/* Post, start, complete, wait. */
#include "suite.h"

enum { kWords = 8000 };
static uint64_t out[kWords], memory[2 * kWords];

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  const int right = (rank + 1) % size, left = (rank + size - 1) % size;
  MPI_Win window;
  MPI_Win_create(memory, sizeof memory, sizeof(uint64_t), MPI_INFO_NULL, MPI_COMM_WORLD, &window);
  MPI_Group all, around;
  MPI_Comm_group(MPI_COMM_WORLD, &all);
  MPI_Group_incl(all, left == right ? 1 : 2, (int[]){left, right}, &around);
  int round = 0;
  do {
    const int n = 1 + round * 61 % (kWords - 1);
    fill(out, n, rank, round);
    MPI_Win_post(around, 0, window);
    MPI_Win_start(around, 0, window);
    MPI_Put(out, n, MPI_UINT64_T, right, 0, n, MPI_UINT64_T, window);
    MPI_Put(out, n, MPI_UINT64_T, left, kWords, n, MPI_UINT64_T, window);
    compute(round % 3 * 4000);
    MPI_Win_complete(window);
    if (round % 2 == 0) MPI_Win_wait(window);
    else
      for (int done = 0; !done;) MPI_Win_test(window, &done);
    expect(memory, n, left, round, "from the left");
    expect(memory + kWords, n, right, round, "from the right");
  } while (go_on(round++));
  MPI_Group_free(&around);
  MPI_Group_free(&all);
  MPI_Win_free(&window);
  return suite_end(round);
}
