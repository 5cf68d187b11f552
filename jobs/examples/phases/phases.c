/* A program that helps Stillpoint: it computes in phases and, when one is over and its scratch memory is freed, says that
 * now is a good moment; it asks for a checkpoint by itself every so many phases; and it keeps checkpoints out of the few
 * moments in which its log file and its counters do not agree. It runs as well without Stillpoint.
 *
 *   phases PHASES EVERY
 *
 * Rank 0 prints "phase N sum S epoch E restarts R" for each phase, and "done sum S". The sum depends on nothing else. */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "stillpoint.h"

static int rank;

static void say(void* what) {
  if (rank == 0) fprintf(stderr, "%s\n", (const char*)what);
}
static void before(void* context) { say("a checkpoint begins"), (void)context; }
static void after(void* context) { (void)context, say("a checkpoint is over"); }
static void restarted(void* context) { (void)context, say("brought back from a checkpoint"); }

static uint64_t work(int phase, int size) {
  enum { kWords = 1 << 18 };
  uint64_t* scratch = malloc(kWords * sizeof *scratch);
  uint64_t mine = (uint64_t)rank + 1, all = 0;
  if (scratch == NULL) MPI_Abort(MPI_COMM_WORLD, 1);
  for (int turn = 0; turn < 20; turn++) {
    for (int i = 0; i < kWords; i++) scratch[i] = mine = mine * 6364136223846793005ULL + (uint64_t)phase;
    MPI_Allreduce(&scratch[kWords - 1], &all, 1, MPI_UINT64_T, MPI_BXOR, MPI_COMM_WORLD);
    mine ^= all / (uint64_t)size;
  }
  free(scratch);
  return all;
}

int main(int argc, char** argv) {
  int size;
  uint64_t sum = 0;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const int phases = argc > 1 ? atoi(argv[1]) : 20, every = argc > 2 ? atoi(argv[2]) : 0;
  stillpoint_on_checkpoint(before, after, restarted, NULL);
  for (int phase = 1; phase <= phases; phase++) {
    const uint64_t result = work(phase, size);
    stillpoint_forbid(2000);
    if (rank == 0) {
      printf("phase %d sum %016llx", phase, (unsigned long long)(sum ^ result));
      fflush(stdout);
      sum ^= result; /* what was printed and what is remembered agree again */
      printf(" epoch %llu restarts %u\n", stillpoint_epoch(), stillpoint_restarts());
      fflush(stdout);
    }
    stillpoint_allow();
    if (rank == 0 && every > 0 && phase % every == 0) stillpoint_request_checkpoint();
    else if (rank == 0) stillpoint_good_moment();
  }
  if (rank == 0) printf("done sum %016llx\n", (unsigned long long)sum);
  MPI_Finalize();
  return 0;
}
