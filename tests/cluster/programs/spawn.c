/* Children are spawned, and exchange data with rank 0 of the parents in each round from then on. */
#include "suite.h"

enum { kChildren = 2, kWords = 3000, kSpawnRound = 5 };
static uint64_t data[kWords];

static int child(void) {
  MPI_Comm parents;
  int me, round;
  MPI_Init(NULL, NULL);
  MPI_Comm_get_parent(&parents);
  MPI_Comm_rank(MPI_COMM_WORLD, &me);
  for (;;) {
    MPI_Bcast(&round, 1, MPI_INT, 0, parents);
    if (round < 0) break;
    fill(data, kWords, 100 + me, round);
    MPI_Send(data, kWords, MPI_UINT64_T, 0, me, parents);
    MPI_Recv(data, kWords, MPI_UINT64_T, 0, 10 + me, parents, MPI_STATUS_IGNORE);
    expect(data, kWords, 0, round, "from the parent");
    MPI_Barrier(MPI_COMM_WORLD);
  }
  MPI_Comm_disconnect(&parents);
  MPI_Finalize();
  return 0;
}

static void exchange(MPI_Comm children, int round) {
  MPI_Bcast(&round, 1, MPI_INT, rank == 0 ? MPI_ROOT : MPI_PROC_NULL, children);
  for (int c = 0; rank == 0 && round >= 0 && c < kChildren; c++) {
    MPI_Recv(data, kWords, MPI_UINT64_T, c, c, children, MPI_STATUS_IGNORE);
    expect(data, kWords, 100 + c, round, "from a child");
    fill(data, kWords, 0, round);
    MPI_Send(data, kWords, MPI_UINT64_T, c, 10 + c, children);
  }
}

int main(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], "child") == 0) return child();
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  MPI_Comm children = MPI_COMM_NULL;
  char* arguments[] = {"child", NULL};
  int round = 0;
  do {
    if (round == kSpawnRound)
      MPI_Comm_spawn(argv[0], arguments, kChildren, MPI_INFO_NULL, 0, MPI_COMM_WORLD, &children, MPI_ERRCODES_IGNORE);
    if (children != MPI_COMM_NULL) exchange(children, round);
    uint64_t mine = word(rank, round, 0), sum = 0, wanted = 0;
    MPI_Allreduce(&mine, &sum, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    for (int i = 0; i < size; i++) wanted += word(i, round, 0);
    expect_number(sum, wanted, round, "Allreduce");
    usleep(1000);
  } while (go_on(round++));
  if (children != MPI_COMM_NULL) {
    exchange(children, -1);
    MPI_Comm_disconnect(&children);
  }
  return suite_end(round);
}
