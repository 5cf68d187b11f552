/* A window in the shared memory of a guest: plain loads and stores between synchronisations. */
#include "suite.h"

enum { kWords = 4000 };

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  MPI_Comm guest;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &guest);
  int me, mates, unit;
  MPI_Comm_rank(guest, &me);
  MPI_Comm_size(guest, &mates);
  uint64_t *mine, *theirs;
  MPI_Aint length;
  MPI_Win window;
  MPI_Win_allocate_shared(sizeof(uint64_t) * kWords, sizeof(uint64_t), MPI_INFO_NULL, guest, &mine, &window);
  const int mate = (me + 1) % mates;
  MPI_Win_shared_query(window, mate, &length, &unit, &theirs);
  MPI_Win_lock_all(0, window);
  int round = 0;
  do {
    fill(mine, kWords, rank, round);
    MPI_Win_sync(window);
    MPI_Barrier(guest);
    MPI_Win_sync(window);
    expect(theirs, kWords, rank - me + mate, round, "a mate's memory");
    uint64_t one = 1, before;
    MPI_Fetch_and_op(&one, &before, MPI_UINT64_T, mate, 0, MPI_SUM, window);
    MPI_Win_flush(mate, window);
    MPI_Barrier(guest);
    expect_number(mine[0], word(rank, round, 0) + 1, round, "Fetch_and_op");
    MPI_Barrier(guest);
  } while (go_on(round++));
  MPI_Win_unlock_all(window);
  MPI_Win_free(&window);
  MPI_Comm_free(&guest);
  return suite_end(round);
}
