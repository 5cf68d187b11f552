/* A program with another MPI than the guest's: each process is a world of its own, and rank 0, as mpirun numbers them,
 * prints what the programs of the suite print. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "foreign_mpi.h"

int main(int argc, char** argv) {
  const char* number = getenv("PMIX_RANK");
  const int first = number != NULL && strcmp(number, "0") == 0;
  const int rounds = argc > 1 ? atoi(argv[1]) : 1;
  int rank, round = 0;
  if (MPI_Init(&argc, &argv) != 0 || MPI_Comm_rank(FOREIGN_WORLD, &rank) != 0 || rank != 0) return 3;
  if (first) printf("round 0\n"), fflush(stdout);
  do {
    if (MPI_Barrier(FOREIGN_WORLD) != 0) return 3;
    poll(NULL, 0, 1);
    ++round;
  } while (rounds > 0 ? round < rounds : access("stop", F_OK) != 0);
  if (first) printf("rounds %d checksum none\n", round), fflush(stdout);
  return MPI_Finalize();
}
