/* Six ranks, three on each guest, of which one comes to an end:
 *
 *   mortal HOW RANK
 *
 * Ranks 0, 3 and 4 compute outside MPI and write a numbered line each few milliseconds, with the time; rank 1 waits in
 * a receive from rank 3, ranks 2 and 5 in a barrier that is never complete. When there is a file "die" in its
 * directory, RANK, one of those that compute, ends: HOW is exit, abort (MPI_Abort), error (a message that is longer
 * than the room for it) or segv. With HOW handled, rank 1 gets errors returned and calls MPI_Abort when its receive
 * fails. Rank 0 prints "round 0" when all are there. Each line is also written to the file "written" in the directory
 * of its guest. */
#include <fcntl.h>
#include <signal.h>
#include <time.h>

#include "suite.h"

static long long microseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

static void die(const char* how) {
  if (strcmp(how, "exit") == 0) exit(3);
  if (strcmp(how, "abort") == 0) MPI_Abort(MPI_COMM_WORLD, 7);
  if (strcmp(how, "error") == 0) {
    const char sent[8] = "";
    char room[4];
    MPI_Request request;
    MPI_Isend(sent, 8, MPI_CHAR, rank, 1, MPI_COMM_WORLD, &request);
    MPI_Recv(room, 4, MPI_CHAR, rank, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  }
  if (strcmp(how, "segv") == 0) raise(SIGSEGV);
}

static void write_lines(const char* how, int mortal) {
  const int written = open("written", O_WRONLY | O_CREAT | O_APPEND, 0644);
  for (int line = 0;; line++) {
    printf("rank %d line %d at %lld\n", rank, line, microseconds()), fflush(stdout);
    if (write(written, "x", 1) != 1) give_up("cannot write");
    for (const long long until = microseconds() + 5000; microseconds() < until;) compute(1000);
    if (rank == mortal && access("die", F_OK) == 0) die(how);
  }
}

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  MPI_Barrier(MPI_COMM_WORLD);
  if (rank == 0) printf("round 0\n"), fflush(stdout);
  int word = 0;
  if (rank == 1 && argc > 1 && strcmp(argv[1], "handled") == 0) {
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    if (MPI_Recv(&word, 1, MPI_INT, 3, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE) != MPI_SUCCESS)
      MPI_Abort(MPI_COMM_WORLD, 9);
  } else if (rank == 1) MPI_Recv(&word, 1, MPI_INT, 3, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  else if (rank == 2 || rank == 5) MPI_Barrier(MPI_COMM_WORLD);
  else write_lines(argc > 2 ? argv[1] : "", argc > 2 ? atoi(argv[2]) : -1);
  printf("rank %d came out\n", rank), fflush(stdout);
  return suite_end(0);
}
