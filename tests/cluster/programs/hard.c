/* What is hard to bring to rest: hard ROUNDS WHAT.
 * flood: rank 0 sends the last rank more than sockets hold, while that computes. alltoall [KIB]: 1 MiB for each pair,
 * or so many. compute [TENTHS]: the last rank computes for that long without MPI, while the others wait for it.
 * idle: nobody does anything, outside MPI. */
#include "suite.h"

enum { kFlood = 2000, kShort = 500 };

static double now(void) { return MPI_Wtime(); }

static void flood(int round) {
  static uint64_t data[kShort];
  if (rank == 0) {
    for (int i = 0; i < kFlood; i++) {
      fill(data, kShort, 0, round * kFlood + i);
      MPI_Send(data, kShort, MPI_UINT64_T, size - 1, 7, MPI_COMM_WORLD);
    }
  } else if (rank == size - 1) {
    for (const double until = now() + 0.2; now() < until;) compute(10000);
    for (int i = 0; i < kFlood; i++) {
      MPI_Recv(data, kShort, MPI_UINT64_T, 0, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      expect(data, kShort, 0, round * kFlood + i, "flood");
    }
  }
  MPI_Barrier(MPI_COMM_WORLD);
}

static void alltoall(int round, int kib) {
  static uint64_t *out, *in;
  const int each = kib * 128;
  const size_t bytes = sizeof(uint64_t) * (size_t)each * (size_t)size;
  if (out == NULL) out = malloc(bytes), in = malloc(bytes);
  for (int i = 0; i < size; i++) fill(out + i * each, each, rank * size + i, round);
  MPI_Alltoall(out, each, MPI_UINT64_T, in, each, MPI_UINT64_T, MPI_COMM_WORLD);
  for (int i = 0; i < size; i++) expect(in + i * each, each, i * size + rank, round, "Alltoall");
}

static void wait_for_one(int round, double seconds) {
  uint64_t mine = word(rank, round, 0), sum = 0, wanted = 0;
  if (rank == size - 1 && round > 0)
    for (const double until = now() + seconds; now() < until;) compute(10000);
  MPI_Allreduce(&mine, &sum, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
  for (int i = 0; i < size; i++) wanted += word(i, round, 0);
  expect_number(sum, wanted, round, "Allreduce");
}

int main(int argc, char** argv) {
  const char* what = argc > 2 ? argv[2] : "flood";
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  int round = 0;
  do {
    if (strcmp(what, "flood") == 0) flood(round);
    else if (strcmp(what, "alltoall") == 0) alltoall(round, argc > 3 ? atoi(argv[3]) : 1024);
    else if (strcmp(what, "idle") == 0) usleep(200000);
    else wait_for_one(round, argc > 3 ? atoi(argv[3]) / 10.0 : 2);
  } while (go_on(round++));
  return suite_end(round);
}
