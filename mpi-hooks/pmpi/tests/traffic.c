/* What the hook library is tried on: ranks that exchange messages of all sizes, point to point and collectively, in
 * blocking and nonblocking calls, check every byte, and print one checksum at the end. They fork now and then.
 *
 *   traffic ROUNDS SEED [LEVEL [WHAT]]
 *
 * ROUNDS 0: until there is a file "stop" in the working directory. LEVEL: single, serialized, multiple (a second thread
 * exchanges messages as well). WHAT: plain; flood (rank 0 sends into the last rank while that computes); error (rank 0
 * sends to a rank that does not exist); handled (the same, having set MPI_ERRORS_RETURN).
 *
 * Rank 0 prints "level asked=.. told=.. queried=..", "round N" now and then, and "rounds N checksum X". Ends with 3 and
 * a word on stderr when a byte is wrong. */
#include <mpi.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { kLargest = 1 << 20, kFlood = 800 };
static int rank, size;
static uint64_t checksum = 1469598103934665603ULL;

static uint64_t next(uint64_t* state) {
  *state += 0x9E3779B97F4A7C15ULL;
  uint64_t z = *state;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

static void fill(unsigned char* data, int length, int from, int round) {
  uint64_t state = (uint64_t)from << 32 | (uint32_t)round;
  for (int i = 0; i < length; i += 8) {
    const uint64_t word = next(&state);
    memcpy(data + i, &word, length - i < 8 ? length - i : 8);
  }
}

static void give_up(int code, const char* why, int round) {
  fprintf(stderr, "rank %d, round %d: %s\n", rank, round, why);
  fflush(stderr);
  _Exit(code);
}

static void check(const unsigned char* data, int length, int from, int round, const char* what) {
  static unsigned char expected[kLargest];
  fill(expected, length, from, round);
  if (memcmp(data, expected, length) != 0) {
    fprintf(stderr, "%d bytes from rank %d: ", length, from);
    give_up(3, what, round);
  }
  for (int i = 0; i < length; i += 997) checksum = (checksum ^ data[i]) * 1099511628211ULL;
}

/* A while outside MPI: what a gate meets as "computing". */
static void compute(uint64_t turns) {
  volatile uint64_t sink = 0;
  for (uint64_t i = 0; i < turns; i++) sink += i;
}

static void point_to_point(int round, int length) {
  static unsigned char out[kLargest], in[kLargest], in2[kLargest];
  const int right = (rank + 1) % size, left = (rank + size - 1) % size;
  MPI_Request requests[4];
  fill(out, length, rank, round);
  MPI_Irecv(in, length, MPI_BYTE, left, 1, MPI_COMM_WORLD, &requests[0]);
  MPI_Irecv(in2, length, MPI_BYTE, right, 2, MPI_COMM_WORLD, &requests[1]);
  MPI_Isend(out, length, MPI_BYTE, right, 1, MPI_COMM_WORLD, &requests[2]);
  MPI_Isend(out, length, MPI_BYTE, left, 2, MPI_COMM_WORLD, &requests[3]);
  if (round % 3 == 0) {
    int done = 0;
    while (!done) MPI_Testall(4, requests, &done, MPI_STATUSES_IGNORE);
  } else {
    MPI_Waitall(4, requests, MPI_STATUSES_IGNORE);
  }
  check(in, length, left, round, "Irecv from the left");
  check(in2, length, right, round, "Irecv from the right");
  MPI_Sendrecv(out, length, MPI_BYTE, right, 3, in, length, MPI_BYTE, left, 3, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  check(in, length, left, round, "Sendrecv");
  if (size > 1) {
    MPI_Status status;
    if (rank % 2 == 0 && rank + 1 < size) {
      MPI_Send(out, length, MPI_BYTE, rank + 1, 4, MPI_COMM_WORLD);
      MPI_Recv(in, length, MPI_BYTE, rank + 1, 5, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      check(in, length, rank + 1, round, "Recv");
    } else if (rank % 2 == 1) {
      MPI_Probe(rank - 1, 4, MPI_COMM_WORLD, &status);
      MPI_Recv(in, length, MPI_BYTE, rank - 1, 4, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      check(in, length, rank - 1, round, "Probe and Recv");
      MPI_Ssend(out, length, MPI_BYTE, rank - 1, 5, MPI_COMM_WORLD);
    }
  }
}

static void collective(int round, int length) {
  static unsigned char data[kLargest];
  const int root = round % size;
  if (rank == root) fill(data, length, root, round);
  MPI_Bcast(data, length, MPI_BYTE, root, MPI_COMM_WORLD);
  check(data, length, root, round, "Bcast");

  uint64_t mine = (uint64_t)(rank + 1) * (uint64_t)(round + 1), sum = 0, again = 0;
  MPI_Allreduce(&mine, &sum, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
  MPI_Request request;
  MPI_Iallreduce(&mine, &again, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD, &request);
  compute(2000);
  MPI_Wait(&request, MPI_STATUS_IGNORE);
  const uint64_t expected = (uint64_t)size * (uint64_t)(size + 1) / 2 * (uint64_t)(round + 1);
  if (sum != expected || again != expected) {
    give_up(3, "wrong sum", round);
  }
  checksum = (checksum ^ sum) * 1099511628211ULL;

  int out[64], in[64];
  for (int i = 0; i < size; i++) out[i] = rank * 1000 + i + round;
  MPI_Alltoall(out, 1, MPI_INT, in, 1, MPI_INT, MPI_COMM_WORLD);
  for (int i = 0; i < size; i++)
    if (in[i] != i * 1000 + rank + round) give_up(3, "wrong numbers in Alltoall", round);

  if (round % 16 == 5) {
    MPI_Comm half;
    MPI_Comm_split(MPI_COMM_WORLD, rank % 2, rank, &half);
    MPI_Barrier(half);
    MPI_Comm_free(&half);
  }
}

/* One rank sends many small messages into another that computes meanwhile: eager, unexpected, more than sockets hold.
 */
static void flood(int round) {
  static unsigned char data[4000];
  if (rank == 0) {
    fill(data, sizeof data, 0, round);
    for (int i = 0; i < kFlood; i++) MPI_Send(data, sizeof data, MPI_BYTE, size - 1, 7, MPI_COMM_WORLD);
  } else if (rank == size - 1) {
    compute(400 * 1000 * 1000);
    for (int i = 0; i < kFlood; i++) {
      MPI_Recv(data, sizeof data, MPI_BYTE, 0, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      check(data, sizeof data, 0, round, "flood");
    }
  }
}

/* Beside the other traffic, on a communicator of its own, until rank 0's main thread is done. */
static MPI_Comm aside;
static atomic_int main_done;
static void* second_thread(void* unused) {
  static unsigned char out[2000], in[2000], expected[2000];
  const int right = (rank + 1) % size, left = (rank + size - 1) % size;
  for (int round = 0, go = 1; go; round++) {
    fill(out, sizeof out, rank + 100, round);
    MPI_Sendrecv(out, sizeof out, MPI_BYTE, right, 9, in, sizeof in, MPI_BYTE, left, 9, aside, MPI_STATUS_IGNORE);
    fill(expected, sizeof expected, left + 100, round);
    if (memcmp(in, expected, sizeof in) != 0) give_up(3, "wrong bytes beside the other traffic", round);
    go = !main_done;
    MPI_Bcast(&go, 1, MPI_INT, 0, aside);
  }
  return unused;
}

/* A child that has nothing to do with MPI. */
static void fork_once(void) {
  const pid_t child = fork();
  if (child == 0) _exit(7);
  int status = 0;
  if (waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 7)
    give_up(4, "a forked child did not come to its end", 0);
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const int rounds = atoi(argv[1]);
  uint64_t random = strtoull(argv[2], NULL, 10);
  const char* level = argc > 3 ? argv[3] : "single";
  const char* what = argc > 4 ? argv[4] : "plain";
  int asked = MPI_THREAD_SINGLE, told = MPI_THREAD_SINGLE, queried = -1;
  if (strcmp(level, "single") == 0) {
    MPI_Init(&argc, &argv);
  } else {
    asked = strcmp(level, "multiple") == 0 ? MPI_THREAD_MULTIPLE : MPI_THREAD_SERIALIZED;
    MPI_Init_thread(&argc, &argv, asked, &told);
  }
  MPI_Query_thread(&queried);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (rank == 0) printf("level asked=%d told=%d queried=%d\n", asked, told, queried);

  if (strcmp(what, "error") == 0 || strcmp(what, "handled") == 0) {
    if (strcmp(what, "handled") == 0) MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    const int result = rank == 0 ? MPI_Send(&rank, 1, MPI_INT, size + 5, 0, MPI_COMM_WORLD) : MPI_SUCCESS;
    if (rank == 0) printf("the wrong send returned %s\n", result == MPI_SUCCESS ? "success" : "an error");
  }

  pthread_t second;
  if (asked == MPI_THREAD_MULTIPLE) {
    MPI_Comm_dup(MPI_COMM_WORLD, &aside);
    pthread_create(&second, NULL, second_thread, NULL);
  }
  int round = 0;
  for (int go = 1; go; round++) {
    /* The same choice on every rank: all draw from the same sequence. */
    const int exponent = 3 + (int)(next(&random) % 18);
    const int length = (1 << exponent) - (int)(next(&random) % 7);
    point_to_point(round, length);
    collective(round, length / 4 + 1);
    compute(next(&random) % 20000 * (uint64_t)(1 + rank));
    if (strcmp(what, "flood") == 0 && round % 50 == 10) flood(round);
    if (round % 100 == 20) fork_once();
    go = rounds > 0 ? round + 1 < rounds : access("stop", F_OK) != 0;
    MPI_Bcast(&go, 1, MPI_INT, 0, MPI_COMM_WORLD);
    if (rank == 0 && round % 50 == 0) {
      printf("round %d\n", round);
      fflush(stdout);
    }
  }
  main_done = 1;
  if (asked == MPI_THREAD_MULTIPLE) pthread_join(second, NULL);
  uint64_t all = 0;
  MPI_Reduce(&checksum, &all, 1, MPI_UINT64_T, MPI_BXOR, 0, MPI_COMM_WORLD);
  if (rank == 0) printf("rounds %d checksum %016llx\n", round, (unsigned long long)all);
  MPI_Finalize();
  return 0;
}
