/* Ranks that sit in one call, for looking at them there.
 *
 *   calls WHAT      barrier: the others wait for rank 0 in a barrier of "rows"; finalize: in MPI_Finalize;
 *                   spawn: in MPI_Comm_spawn of one more process, which waits for the file too;
 *                   api: rank 0 waits in a critical section of stillpoint.h, the others in a barrier
 *
 * Rank 0 stays outside MPI until there is a file "stop" in the working directory, then does what the others do. Prints
 * "over" at the end. */
#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "stillpoint.h"

static void await_file(void) {
  while (access("stop", F_OK) != 0) usleep(10000);
}

static void say(const char* what) {
  printf("callback %s\n", what);
  fflush(stdout);
}
static void before(void* context) {
  (void)context;
  say("before");
}
static void after(void* context) {
  (void)context;
  say("after");
}
static void restarted(void* context) {
  (void)context;
  say("restarted");
}

static void critical_section(int rank) {
  if (stillpoint_on_checkpoint(before, after, restarted, NULL) != 0 || rank != 0) return;
  stillpoint_forbid(60000);  // first: who hears of the wish shuts the gates
  stillpoint_request_checkpoint();
  await_file();
  printf("wanted %d\n", stillpoint_checkpoint_wanted());
  fflush(stdout);
  stillpoint_allow();
  while (stillpoint_restarts() == 0) usleep(1000);
  printf("epoch %llu restarts %u\n", stillpoint_epoch(), stillpoint_restarts());
}

int main(int argc, char** argv) {
  int rank, size;
  MPI_Comm parent, rows, children;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Comm_get_parent(&parent);
  MPI_Comm_split(MPI_COMM_WORLD, 0, rank, &rows);
  MPI_Comm_set_name(rows, "rows");
  const int api = strcmp(argv[1], "api") == 0;
  if (api) critical_section(rank);
  else if (rank == 0) await_file();
  if (parent == MPI_COMM_NULL && (api || strcmp(argv[1], "barrier") == 0)) MPI_Barrier(rows);
  if (parent == MPI_COMM_NULL && strcmp(argv[1], "spawn") == 0)
    MPI_Comm_spawn(argv[0], argv + 1, 1, MPI_INFO_NULL, size - 1, rows, &children, MPI_ERRCODES_IGNORE);
  if (parent == MPI_COMM_NULL && rank == 0) printf("over\n");
  MPI_Finalize();
  return 0;
}
