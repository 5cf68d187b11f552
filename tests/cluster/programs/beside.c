/* Rounds as of every program of the suite, and beside them, from the moment on that there is a file "begin" and until
 * there is a file "end" in rank 0's directory, something that a checkpoint has to refuse:
 *
 *   beside ROUNDS KIND
 *
 *   silent    rank 0 asks rank 2 for a connection, which never answers because its queue is full
 *   closing   rank 0 has said that it sends no more, rank 2 has not
 *   pair      an ordinary connection of rank 0 with rank 2, on which nothing is sent
 *   outside   rank 2 is connected with a machine that is none of the gang
 *   device    rank 2 has an RDMA device open: another one's node by that name, where there is no adapter
 *
 * Rank 0 prints "begun" and "ended". */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "suite.h"

enum { kWords = 512, kPort = 7000, kPeer = 2 };

static const char* kind;
static int listener = -1, mine = -1, filler = -1;

static int is(const char* name) { return strcmp(kind, name) == 0; }

static struct sockaddr_in address_of(const char* ip) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(kPort)};
  inet_pton(AF_INET, ip, &address.sin_addr);
  return address;
}

static int connected_to(const char* ip, int flags) {
  const struct sockaddr_in to = address_of(ip);
  const int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
  if (connect(s, (const struct sockaddr*)&to, sizeof to) != 0 && errno != EINPROGRESS)
    give_up("connect to %s: %s", ip, strerror(errno));
  return s;
}

static void listen_for_one(void) {
  const struct sockaddr_in any = address_of("0.0.0.0");
  const int on = 1;
  listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (const struct sockaddr*)&any, sizeof any) != 0 || listen(listener, 0) != 0)
    give_up("listen: %s", strerror(errno));
}

static void open_device(void) {
  mkdir("/dev/infiniband", 0755);
  if (mknod("/dev/infiniband/uverbs0", S_IFCHR | 0600, makedev(1, 3)) != 0 && errno != EEXIST)
    give_up("mknod: %s", strerror(errno));
  mine = open("/dev/infiniband/uverbs0", O_RDWR | O_CLOEXEC);
  if (mine < 0) give_up("open the device: %s", strerror(errno));
}

/* All ranks; those that are not named have nothing to do. */
static void begin(void) {
  const int between = is("silent") || is("closing") || is("pair");
  if (rank == kPeer && between) listen_for_one();
  MPI_Barrier(suite_comm);
  if (rank == 0 && between) {
    if (is("silent")) filler = connected_to("10.99.0.2", 0);
    mine = connected_to("10.99.0.2", is("silent") ? SOCK_NONBLOCK : 0);
    if (is("closing")) shutdown(mine, SHUT_WR);
  }
  if (rank == kPeer) {
    if (between && !is("silent")) mine = accept(listener, NULL, NULL);
    if (is("outside")) mine = connected_to("10.99.255.1", 0);
    if (is("device")) open_device();
  }
  MPI_Barrier(suite_comm);
  if (rank == 0) printf("begun\n"), fflush(stdout);
}

static void end(void) {
  int* const all[] = {&mine, &filler, &listener};
  for (int i = 0; i < 3; i++)
    if (*all[i] >= 0) close(*all[i]), *all[i] = -1;
  MPI_Barrier(suite_comm);
  if (rank == 0) printf("ended\n"), fflush(stdout);
}

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  kind = argc > 2 ? argv[2] : "";
  MPI_Barrier(suite_comm); /* the first one makes communicators of its own: before the suite counts them */
  uint64_t* out = malloc(sizeof *out * kWords * (size_t)size);
  uint64_t* in = malloc(sizeof *in * kWords * (size_t)size);
  int round = 0, stage = 0;
  do {
    fill(out, kWords * size, rank, round);
    MPI_Alltoall(out, kWords, MPI_UINT64_T, in, kWords, MPI_UINT64_T, MPI_COMM_WORLD);
    for (int from = 0; from < size; from++)
      expect_number(in[from * kWords], word(from, round, rank * kWords), round, "Alltoall");
    int wanted = access("end", F_OK) == 0 ? 2 : access("begin", F_OK) == 0 ? 1 : 0;
    MPI_Bcast(&wanted, 1, MPI_INT, 0, suite_comm);
    if (stage == 0 && wanted >= 1) begin(), stage = 1;
    if (stage == 1 && wanted == 2) end(), stage = 2;
  } while (go_on(round++));
  free(out);
  free(in);
  return suite_end(round);
}
