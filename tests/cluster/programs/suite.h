/* What the programs of the suite share: each exchanges data of one kind, checks every word of it, and prints one line
 * that depends on nothing but the number of rounds.
 *
 *   PROGRAM ROUNDS      0: until there is a file "stop" in the working directory of rank 0; or, where the environment
 *                       has SUITE_LAST=EPOCH, until 20 rounds after the job was brought back from that checkpoint
 *                       or a later one
 *
 * Rank 0 prints "round 0" when all are under way and "rounds N checksum X" at the end. A wrong word ends the program
 * with 3 and a word on stderr. */
#include <mpi.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stillpoint.h"

enum { kUnderWay = 4 }; /* rounds */
static int rank, size, rounds_wanted;
static uint64_t checksum = 1469598103934665603ULL;
static MPI_Comm suite_comm; /* of the suite's own messages */
static MPI_Fint first_free; /* communicator, when all are under way */

__attribute__((unused, noreturn, format(printf, 1, 2))) static void give_up(const char* format, ...) {
  va_list more;
  va_start(more, format);
  fprintf(stderr, "rank %d: ", rank);
  vfprintf(stderr, format, more);
  fprintf(stderr, "\n");
  fflush(stderr);
  usleep(500000); /* mpirun forgets what a failed rank said last */
  _Exit(3);
}

/* The i-th word that `from` sends in a round. */
__attribute__((unused)) static uint64_t word(int from, int round, int i) {
  uint64_t z = ((uint64_t)from << 40 ^ (uint64_t)round << 20 ^ (uint64_t)i) + 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

__attribute__((unused)) static void fill(uint64_t* data, int count, int from, int round) {
  for (int i = 0; i < count; i++) data[i] = word(from, round, i);
}

__attribute__((unused)) static void fold(uint64_t value) { checksum = (checksum ^ value) * 1099511628211ULL; }

__attribute__((unused)) static void expect(const uint64_t* data, int count, int from, int round, const char* what) {
  for (int i = 0; i < count; i++)
    if (data[i] != word(from, round, i))
      give_up("round %d, %s: word %d of %d from %d is wrong", round, what, i, count, from);
  if (count > 0) fold(data[count - 1]);
}

__attribute__((unused)) static void expect_number(uint64_t is, uint64_t wanted, int round, const char* what) {
  if (is != wanted)
    give_up("round %d, %s: %llu, not %llu", round, what, (unsigned long long)is, (unsigned long long)wanted);
  fold(is);
}

/* A while outside MPI. */
__attribute__((unused)) static void compute(int turns) {
  for (volatile int i = 0; i < turns; i++) continue;
}

/* Grows when communicators are left behind: the lowest number that is free. (Collectives on several nodes make some of
 * their own at a communicator's first one.) */
__attribute__((unused)) static MPI_Fint next_communicator(void) {
  MPI_Comm next;
  MPI_Comm_dup(suite_comm, &next);
  const MPI_Fint number = MPI_Comm_c2f(next);
  MPI_Comm_free(&next);
  return number;
}

__attribute__((unused)) static void suite_enter(MPI_Comm everybody, const char* rounds) {
  MPI_Comm_dup(everybody, &suite_comm);
  MPI_Comm_rank(suite_comm, &rank);
  MPI_Comm_size(suite_comm, &size);
  rounds_wanted = rounds != NULL ? atoi(rounds) : 1;
}

__attribute__((unused)) static int suite_begin(int argc, char** argv, int level) {
  int told;
  if (level == MPI_THREAD_SINGLE) MPI_Init(&argc, &argv), told = level;
  else MPI_Init_thread(&argc, &argv, level, &told);
  suite_enter(MPI_COMM_WORLD, argc > 1 ? argv[1] : NULL);
  return told;
}

/* Whether the rounds after the restart from SUITE_LAST are over. */
__attribute__((unused)) static int last_are_over(int round) {
  static unsigned restarts;
  static int end = -1;
  const char* last = getenv("SUITE_LAST");
  if (last != NULL && stillpoint_restarts() != restarts) {
    restarts = stillpoint_restarts();
    if (stillpoint_epoch() >= strtoull(last, NULL, 10)) end = round + 20;
  }
  return round == end;
}

/* After each round: whether there is another one. All agree. */
__attribute__((unused)) static int go_on(int round) {
  int go = rounds_wanted > 0 ? round + 1 < rounds_wanted : access("stop", F_OK) != 0 && !last_are_over(round);
  MPI_Bcast(&go, 1, MPI_INT, 0, suite_comm);
  if (rank == 0 && round == 0) printf("round 0\n"), fflush(stdout);
  if (round == kUnderWay) first_free = next_communicator();
  return go;
}

__attribute__((unused)) static void suite_leave(int rounds) {
  uint64_t all = 0;
  const MPI_Fint next = next_communicator();
  if (rounds > kUnderWay + 1 && next > first_free)
    give_up("communicators are left behind: the next is %d, it was %d", (int)next, (int)first_free);
  MPI_Reduce(&checksum, &all, 1, MPI_UINT64_T, MPI_SUM, 0, suite_comm);
  if (rank == 0) printf("rounds %d checksum %016llx\n", rounds, (unsigned long long)all), fflush(stdout);
  MPI_Comm_free(&suite_comm);
}

__attribute__((unused)) static int suite_end(int rounds) {
  suite_leave(rounds);
  MPI_Finalize();
  return 0;
}
