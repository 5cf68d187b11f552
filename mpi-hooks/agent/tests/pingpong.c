/* Two ranks exchange messages of changing length and check every byte. pingpong N: N exchanges. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { kLongest = 200000 };

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const int exchanges = argc > 1 ? atoi(argv[1]) : 100;
  unsigned char* bytes = malloc(kLongest);
  long wrong = 0;
  if (rank == 0) printf("%s\n", getenv("GREETING") ? getenv("GREETING") : "nothing");
  for (int step = 1; step <= exchanges; ++step) {
    const int length = 1 + step * 7919 % kLongest;
    if (rank == 0) {
      for (int i = 0; i < length; ++i) bytes[i] = (unsigned char)(i + step);
      MPI_Send(bytes, length, MPI_BYTE, 1, 0, MPI_COMM_WORLD);
    }
    if (rank == 1) {
      MPI_Recv(bytes, length, MPI_BYTE, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      for (int i = 0; i < length; ++i) wrong += bytes[i] != (unsigned char)(i + step);
    }
    long sum = 0;
    MPI_Allreduce(&wrong, &sum, 1, MPI_LONG, MPI_SUM, MPI_COMM_WORLD);
    if (rank == 0 && step % 10 == 0) {
      printf("step %d\n", step);
      fflush(stdout);
    }
    if (step == exchanges && rank == 0) printf("done: %d exchanges, %ld wrong bytes\n", exchanges, sum);
  }
  free(bytes);
  MPI_Finalize();
  return 0;
}
