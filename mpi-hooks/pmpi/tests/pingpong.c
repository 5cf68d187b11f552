/* Half the round trip of an 8-byte message between two ranks, in nanoseconds: the fastest of BATCHES batches, since
 * whatever disturbs a batch makes it slower, never faster.
 *
 *   pingpong BATCHES LEGS_PER_BATCH */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  if (argc != 3) MPI_Abort(MPI_COMM_WORLD, 2);
  const int batches = atoi(argv[1]), legs = atoi(argv[2]);
  int rank;
  double data = 1, best = 1e9;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  for (int batch = 0; batch < batches; batch++) {
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = MPI_Wtime();
    for (int i = 0; i < legs / 2; i++) {
      if (rank == 0) {
        MPI_Send(&data, 1, MPI_DOUBLE, 1, 0, MPI_COMM_WORLD);
        MPI_Recv(&data, 1, MPI_DOUBLE, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      } else if (rank == 1) {
        MPI_Recv(&data, 1, MPI_DOUBLE, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        MPI_Send(&data, 1, MPI_DOUBLE, 0, 0, MPI_COMM_WORLD);
      }
    }
    const double leg = (MPI_Wtime() - begin) / legs * 1e9;
    if (leg < best) best = leg;
  }
  if (rank == 0) printf("leg %.1f\n", best);
  MPI_Finalize();
  return 0;
}
