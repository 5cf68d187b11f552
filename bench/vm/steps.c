/* The job of bench/stall: each rank touches so much memory, then works in short steps of a little computing, a few changed
 * pages and a word with all others.
 *   steps MEBIBYTES PAGES-PER-STEP
 * Rank 0 prints "steps N" about once a second. */
#define _GNU_SOURCE
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 4096 };
static uint64_t state = 88172645463325252u;

static uint64_t next(void) {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (argc != 3) MPI_Abort(MPI_COMM_WORLD, 2);
  state += (uint64_t)rank;
  const size_t pages = (size_t)atol(argv[1]) << 8;
  const int changed = atoi(argv[2]);
  unsigned char* memory = malloc(pages * PAGE);
  if (memory == NULL) MPI_Abort(MPI_COMM_WORLD, 3);
  for (size_t page = 0; page < pages; ++page)
    for (size_t at = 0; at < PAGE; at += 64) {
      const uint64_t word = next();
      memcpy(memory + page * PAGE + at, &word, 8);
    }
  double said = MPI_Wtime();
  for (uint64_t step = 1;; ++step) {
    uint64_t mine = 0, all = 0;
    for (int i = 0; i < 20000; ++i) mine = mine * 6364136223846793005u + step;
    for (int i = 0; i < changed; ++i) {
      const uint64_t word = next();
      memcpy(memory + word % pages * PAGE, &word, 8);
    }
    MPI_Allreduce(&mine, &all, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    if (rank != 0 || MPI_Wtime() - said < 1) continue;
    said = MPI_Wtime();
    printf("steps %llu\n", (unsigned long long)step);
    fflush(stdout);
  }
}
