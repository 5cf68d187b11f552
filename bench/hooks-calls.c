/* What three kinds of calls cost between two ranks: half the round trip of 8 bytes and an 8-byte Allreduce, both in
 * nanoseconds, and the bandwidth of 1 MiB messages in MB/s. Each the best of BATCHES batches, since whatever disturbs a
 * batch makes it slower, never faster.
 *
 *   hooks-calls BATCHES CALLS_PER_BATCH */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kLarge = 1 << 20 };
static char buffer[kLarge];
static int rank;

static void legs(int count, int bytes) {
  for (int i = 0; i < count / 2; i++) {
    if (rank == 0) {
      MPI_Send(buffer, bytes, MPI_BYTE, 1, 0, MPI_COMM_WORLD);
      MPI_Recv(buffer, bytes, MPI_BYTE, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    } else {
      MPI_Recv(buffer, bytes, MPI_BYTE, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      MPI_Send(buffer, bytes, MPI_BYTE, 0, 0, MPI_COMM_WORLD);
    }
  }
}

static void allreduces(int count, int bytes) {
  double mine = rank, sum = 0;
  for (int i = 0; i < count; i++) MPI_Allreduce(&mine, &sum, bytes / 8, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
}

/* Seconds for one, in the best batch. */
static double best_of(int batches, int count, int bytes, void (*calls)(int, int)) {
  double best = 1e9;
  for (int batch = 0; batch < batches; batch++) {
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = MPI_Wtime();
    calls(count, bytes);
    const double each = (MPI_Wtime() - begin) / count;
    if (each < best) best = each;
  }
  return best;
}

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int size;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (argc != 3 || size != 2) MPI_Abort(MPI_COMM_WORLD, 2);
  const int batches = atoi(argv[1]), calls = atoi(argv[2]);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  memset(buffer, 1, sizeof buffer);
  const double leg = best_of(batches, calls, 8, legs), reduce = best_of(batches, calls, 8, allreduces);
  const double large = best_of(batches, calls / 200 + 2, kLarge, legs);
  if (rank == 0)
    printf("legNs %.2f\nallreduceNs %.2f\nbandwidthMBs %.1f\n", leg * 1e9, reduce * 1e9, kLarge / large / 1e6);
  MPI_Finalize();
  return 0;
}
