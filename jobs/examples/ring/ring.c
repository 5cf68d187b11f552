/* Heavy traffic of which every byte is checked.
 *
 *   ring ROUNDS [SEED [MOST_BYTES]]
 *
 * In each round every rank exchanges messages of 8 bytes to MOST_BYTES (1 MiB) with both neighbours, in several ways
 * (blocking, nonblocking, synchronous, probed), followed by an Alltoall and an Allreduce. What a message must hold
 * follows from seed, round, sender, receiver and number: the receiver knows it without asking. Prints "ring round N ok
 * checksum C" after each; C does not depend on timing. At the first wrong byte: says which, and ends with exit code 1.
 */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 6, WAYS = 5, LEAST_BYTES = 8, ALLTOALL_MOST = 16384 };
enum { TO_RIGHT, TO_LEFT, DIRECTIONS };

typedef struct {
  int rank, ranks, peer[DIRECTIONS]; /* peer[d]: to whom direction d sends */
  uint64_t seed;
  size_t most;
  uint64_t round;
  uint64_t checksum; /* of what this rank received in this round */
  unsigned char *out[BATCH][DIRECTIONS], *in[BATCH][DIRECTIONS], *expected;
} Ring;

static void fail(const char* what) {
  fprintf(stderr, "ring: %s\n", what);
  MPI_Abort(MPI_COMM_WORLD, 2);
  exit(2);
}

static uint64_t mix(uint64_t z) {
  z += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

/* Names one message of the whole run. */
static uint64_t key_of(const Ring* r, int from, int to, int message) {
  return mix(mix(mix(mix(r->seed) + r->round) + (uint64_t)from) + (uint64_t)to * 65536u + (uint64_t)message);
}

/* What the message with this key holds. */
static void fill(unsigned char* buffer, size_t bytes, uint64_t key) {
  uint64_t word = key | 1;
  for (size_t at = 0; at < bytes; at += 8) {
    word ^= word << 13;
    word ^= word >> 7;
    word ^= word << 17;
    memcpy(buffer + at, &word, bytes - at < 8 ? bytes - at : 8);
  }
}

static void check(Ring* r, const unsigned char* got, size_t bytes, int peer, int message, const char* how) {
  const uint64_t key = key_of(r, peer, r->rank, message);
  uint64_t sum = 0;
  fill(r->expected, bytes, key);
  if (memcmp(got, r->expected, bytes) != 0) {
    size_t at = 0;
    while (got[at] == r->expected[at]) ++at;
    fprintf(stderr,
            "ring: WRONG BYTE in round %llu on rank %d from peer %d, %s %d of %zu bytes, offset %zu: 0x%02x instead of "
            "0x%02x\n",
            (unsigned long long)r->round, r->rank, peer, how, message, bytes, at, got[at], r->expected[at]);
    fflush(stderr);
    MPI_Abort(MPI_COMM_WORLD, 1);
    exit(1);
  }
  for (size_t i = 0; i + 8 <= bytes; i += 8) {
    uint64_t word;
    memcpy(&word, got + i, 8);
    sum += word;
  }
  r->checksum += mix(sum ^ key);
}

/* Sizes spread evenly over the powers of two, so that eager and rendezvous messages mix; both ends compute it. */
static size_t size_of(const Ring* r, int from, int to, int message) {
  const uint64_t random = mix(key_of(r, from, to, message));
  int steps = 0;
  while (((size_t)LEAST_BYTES << (steps + 1)) <= r->most) ++steps;
  const size_t base = (size_t)LEAST_BYTES << (random % (uint64_t)(steps + 1));
  size_t bytes = base + (size_t)((random >> 16) % base);
  return bytes > r->most ? r->most : bytes;
}

/* Messages are numbered within the round; the tag is the number and the direction. */
static int message_number(int item, int direction) { return item * DIRECTIONS + direction; }
static int sender(const Ring* r, int direction) { return r->peer[direction == TO_RIGHT ? TO_LEFT : TO_RIGHT]; }

static size_t out_size(const Ring* r, int item, int d) {
  return size_of(r, r->rank, r->peer[d], message_number(item, d));
}
static size_t in_size(const Ring* r, int item, int d) {
  return size_of(r, sender(r, d), r->rank, message_number(item, d));
}

static void check_in(Ring* r, int item, int d) {
  check(r, r->in[item][d], in_size(r, item, d), sender(r, d), message_number(item, d), "message");
}

static void receive(Ring* r, int item, int d) {
  MPI_Recv(r->in[item][d], (int)in_size(r, item, d), MPI_BYTE, sender(r, d), message_number(item, d), MPI_COMM_WORLD,
           MPI_STATUS_IGNORE);
}

/* The size comes from the message itself and must be the expected one. */
static void receive_probed(Ring* r, int item, int d) {
  MPI_Status status;
  int bytes = 0;
  MPI_Probe(sender(r, d), message_number(item, d), MPI_COMM_WORLD, &status);
  MPI_Get_count(&status, MPI_BYTE, &bytes);
  if ((size_t)bytes != in_size(r, item, d)) {
    fprintf(stderr, "ring: WRONG SIZE in round %llu on rank %d from peer %d, message %d: %d bytes instead of %zu\n",
            (unsigned long long)r->round, r->rank, sender(r, d), message_number(item, d), bytes, in_size(r, item, d));
    fflush(stderr);
    MPI_Abort(MPI_COMM_WORLD, 1);
    exit(1);
  }
  receive(r, item, d);
}

static void exchange_nonblocking(Ring* r) {
  MPI_Request requests[BATCH * DIRECTIONS * 2];
  int n = 0;
  for (int i = 0; i < BATCH; ++i)
    for (int d = 0; d < DIRECTIONS; ++d) {
      MPI_Irecv(r->in[i][d], (int)in_size(r, i, d), MPI_BYTE, sender(r, d), message_number(i, d), MPI_COMM_WORLD,
                &requests[n++]);
      MPI_Isend(r->out[i][d], (int)out_size(r, i, d), MPI_BYTE, r->peer[d], message_number(i, d), MPI_COMM_WORLD,
                &requests[n++]);
    }
  MPI_Waitall(n, requests, MPI_STATUSES_IGNORE);
}

static void exchange_sendrecv(Ring* r) {
  for (int i = 0; i < BATCH; ++i)
    for (int d = 0; d < DIRECTIONS; ++d)
      MPI_Sendrecv(r->out[i][d], (int)out_size(r, i, d), MPI_BYTE, r->peer[d], message_number(i, d), r->in[i][d],
                   (int)in_size(r, i, d), MPI_BYTE, sender(r, d), message_number(i, d), MPI_COMM_WORLD,
                   MPI_STATUS_IGNORE);
}

/* One rank receives first, so that blocking sends cannot wait for one another all around. */
static void exchange_blocking(Ring* r, int synchronous) {
  for (int i = 0; i < BATCH; ++i)
    for (int d = 0; d < DIRECTIONS; ++d) {
      if (r->rank == 0) receive(r, i, d);
      if (synchronous)
        MPI_Ssend(r->out[i][d], (int)out_size(r, i, d), MPI_BYTE, r->peer[d], message_number(i, d), MPI_COMM_WORLD);
      else MPI_Send(r->out[i][d], (int)out_size(r, i, d), MPI_BYTE, r->peer[d], message_number(i, d), MPI_COMM_WORLD);
      if (r->rank != 0) receive(r, i, d);
    }
}

/* Unexpected messages pile up at the receiver before it looks. */
static void exchange_probed(Ring* r) {
  MPI_Request requests[BATCH * DIRECTIONS];
  int n = 0;
  for (int i = 0; i < BATCH; ++i)
    for (int d = 0; d < DIRECTIONS; ++d)
      MPI_Isend(r->out[i][d], (int)out_size(r, i, d), MPI_BYTE, r->peer[d], message_number(i, d), MPI_COMM_WORLD,
                &requests[n++]);
  for (int i = BATCH - 1; i >= 0; --i)
    for (int d = 0; d < DIRECTIONS; ++d) receive_probed(r, i, d);
  while (n > 0) {
    int done = 0, index = 0;
    MPI_Testany(n, requests, &index, &done, MPI_STATUS_IGNORE);
    if (!done) {
      MPI_Waitall(n, requests, MPI_STATUSES_IGNORE);
      break;
    }
    if (index == MPI_UNDEFINED) break;
    requests[index] = requests[--n];
  }
}

static void neighbours(Ring* r) {
  for (int i = 0; i < BATCH; ++i)
    for (int d = 0; d < DIRECTIONS; ++d) {
      fill(r->out[i][d], out_size(r, i, d), key_of(r, r->rank, r->peer[d], message_number(i, d)));
      memset(r->in[i][d], 0, in_size(r, i, d));
    }
  switch (mix(mix(r->seed) ^ r->round) % WAYS) {
    case 0: exchange_nonblocking(r); break;
    case 1: exchange_sendrecv(r); break;
    case 2: exchange_blocking(r, 0); break;
    case 3: exchange_blocking(r, 1); break;
    default: exchange_probed(r); break;
  }
  for (int i = 0; i < BATCH; ++i)
    for (int d = 0; d < DIRECTIONS; ++d) check_in(r, i, d);
}

static void all_to_all(Ring* r) {
  enum { NUMBER = 1000 }; /* of no neighbour's message */
  size_t limit = r->most < ALLTOALL_MOST ? r->most : ALLTOALL_MOST;
  const size_t block = 8 + 8 * (size_t)(mix(mix(r->seed) + ~r->round) % (limit / 8));
  const size_t whole = block * (size_t)r->ranks;
  unsigned char *out = malloc(whole), *in = calloc(1, whole);
  if (!out || !in) fail("out of memory");
  for (int to = 0; to < r->ranks; ++to) fill(out + block * (size_t)to, block, key_of(r, r->rank, to, NUMBER));
  MPI_Alltoall(out, (int)block, MPI_BYTE, in, (int)block, MPI_BYTE, MPI_COMM_WORLD);
  for (int from = 0; from < r->ranks; ++from)
    check(r, in + block * (size_t)from, block, from, NUMBER, "alltoall block");
  free(out);
  free(in);
}

static void all_reduce(Ring* r) {
  enum { WORDS = 512 };
  uint64_t mine[WORDS], sum[WORDS];
  for (int i = 0; i < WORDS; ++i) mine[i] = mix(key_of(r, r->rank, i, 2000));
  MPI_Allreduce(mine, sum, WORDS, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
  for (int i = 0; i < WORDS; ++i) {
    uint64_t expected = 0;
    for (int rank = 0; rank < r->ranks; ++rank) expected += mix(key_of(r, rank, i, 2000));
    if (sum[i] != expected) {
      fprintf(stderr, "ring: WRONG SUM in round %llu on rank %d, word %d\n", (unsigned long long)r->round, r->rank, i);
      fflush(stderr);
      MPI_Abort(MPI_COMM_WORLD, 1);
      exit(1);
    }
    r->checksum += sum[i];
  }
}

static unsigned char* buffer(size_t bytes) {
  unsigned char* p = malloc(bytes);
  if (!p) fail("out of memory");
  return p;
}

static uint64_t number(const char* text) {
  char* end;
  const unsigned long long value = strtoull(text, &end, 10);
  if (*text < '0' || *text > '9' || *end != 0) fail("usage: ring ROUNDS [SEED [MOST_BYTES]]");
  return value;
}

int main(int argc, char** argv) {
  Ring r;
  MPI_Init(&argc, &argv);
  if (argc < 2 || argc > 4) fail("usage: ring ROUNDS [SEED [MOST_BYTES]]");
  const uint64_t rounds = number(argv[1]);
  r.seed = argc > 2 ? number(argv[2]) : 1;
  r.most = argc > 3 ? (size_t)number(argv[3]) : (size_t)1 << 20;
  if (r.most < LEAST_BYTES || r.most > (size_t)1 << 28) fail("MOST_BYTES is 8 to 268435456");
  MPI_Comm_rank(MPI_COMM_WORLD, &r.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &r.ranks);
  if (r.ranks < 2) fail("a ring needs at least two ranks");
  r.peer[TO_RIGHT] = (r.rank + 1) % r.ranks;
  r.peer[TO_LEFT] = (r.rank + r.ranks - 1) % r.ranks;
  r.expected = buffer(r.most);
  for (int i = 0; i < BATCH; ++i)
    for (int d = 0; d < DIRECTIONS; ++d) {
      r.out[i][d] = buffer(r.most);
      r.in[i][d] = buffer(r.most);
    }
  for (r.round = 1; r.round <= rounds; ++r.round) {
    uint64_t all = 0;
    r.checksum = 0;
    neighbours(&r);
    all_to_all(&r);
    all_reduce(&r);
    MPI_Reduce(&r.checksum, &all, 1, MPI_UINT64_T, MPI_SUM, 0, MPI_COMM_WORLD);
    if (r.rank == 0) {
      printf("ring round %llu ok checksum %016llx\n", (unsigned long long)r.round, (unsigned long long)all);
      fflush(stdout);
    }
  }
  for (int i = 0; i < BATCH; ++i)
    for (int d = 0; d < DIRECTIONS; ++d) {
      free(r.out[i][d]);
      free(r.in[i][d]);
    }
  free(r.expected);
  MPI_Finalize();
  return 0;
}
