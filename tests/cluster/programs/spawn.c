/* Children are spawned, exchange data with the parents, and end; again and again, with rounds of quiet work between. */
#include "suite.h"

enum { kChildren = 2, kWords = 3000 };
static uint64_t data[kWords];

static int child(MPI_Comm parents) {
  int me, round;
  MPI_Init(NULL, NULL);
  MPI_Comm_get_parent(&parents);
  MPI_Comm_rank(MPI_COMM_WORLD, &me);
  MPI_Bcast(&round, 1, MPI_INT, 0, parents);
  for (int i = 0; i < 20; i++) {
    fill(data, kWords, 100 + me, round + i);
    MPI_Send(data, kWords, MPI_UINT64_T, 0, me, parents);
    MPI_Recv(data, kWords, MPI_UINT64_T, 0, 10 + me, parents, MPI_STATUS_IGNORE);
    expect(data, kWords, 0, round + i, "from the parent");
    MPI_Barrier(MPI_COMM_WORLD);
  }
  MPI_Comm_disconnect(&parents);
  MPI_Finalize();
  return 0;
}

static void family(char* program, int round) {
  MPI_Comm children;
  char* arguments[] = {"child", NULL};
  MPI_Comm_spawn(program, arguments, kChildren, MPI_INFO_NULL, 0, MPI_COMM_WORLD, &children, MPI_ERRCODES_IGNORE);
  MPI_Bcast(&round, 1, MPI_INT, rank == 0 ? MPI_ROOT : MPI_PROC_NULL, children);
  for (int i = 0; rank == 0 && i < 20; i++)
    for (int c = 0; c < kChildren; c++) {
      MPI_Recv(data, kWords, MPI_UINT64_T, c, c, children, MPI_STATUS_IGNORE);
      expect(data, kWords, 100 + c, round + i, "from a child");
      fill(data, kWords, 0, round + i);
      MPI_Send(data, kWords, MPI_UINT64_T, c, 10 + c, children);
    }
  MPI_Comm_disconnect(&children);
}

int main(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], "child") == 0) return child(MPI_COMM_NULL);
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  int round = 0;
  do {
    if (round % 100 == 5) family(argv[0], round);
    uint64_t mine = word(rank, round, 0), sum = 0, wanted = 0;
    MPI_Allreduce(&mine, &sum, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    for (int i = 0; i < size; i++) wanted += word(i, round, 0);
    expect_number(sum, wanted, round, "Allreduce");
    usleep(1000);
  } while (go_on(round++));
  return suite_end(round);
}
