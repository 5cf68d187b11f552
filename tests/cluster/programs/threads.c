/* Threads: threads ROUNDS LEVEL. FUNNELED and SERIALIZED: threads compute beside the calls, or take turns to call.
 * MULTIPLE: each thread exchanges messages of all sizes on a communicator of its own, all at once. */
#include <pthread.h>

#include "suite.h"

enum { kThreads = 4, kMost = 1 << 14 };
static int level, round_now;
static MPI_Comm own[kThreads];
static uint64_t sums[kThreads], out[kThreads][kMost], in[kThreads][kMost];
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t begin, end;
static int over;

static void exchange(int thread, int round) {
  const int right = (rank + 1) % size, left = (rank + size - 1) % size, tag = thread;
  const int count = 1 << ((round + thread * 4) % 15);
  fill(out[thread], count, rank * kThreads + thread, round);
  MPI_Sendrecv(out[thread], count, MPI_UINT64_T, right, tag, in[thread], count, MPI_UINT64_T, left, tag, own[thread],
               MPI_STATUS_IGNORE);
  for (int i = 0; i < count; i++)
    if (in[thread][i] != word(left * kThreads + thread, round, i)) give_up("thread %d, round %d: wrong word", thread, round);
  uint64_t sum = 0;
  MPI_Allreduce(&in[thread][count - 1], &sum, 1, MPI_UINT64_T, MPI_SUM, own[thread]);
  sums[thread] = (sums[thread] ^ sum) * 1099511628211ULL;
}

static void* work(void* which) {
  const int thread = (int)(intptr_t)which;
  for (;;) {
    pthread_barrier_wait(&begin);
    if (over) return NULL;
    if (level == MPI_THREAD_MULTIPLE) {
      for (int i = 0; i < 4; i++) exchange(thread, 4 * round_now + i);
    } else if (level == MPI_THREAD_SERIALIZED) {
      /* One after the other, in the same order in every rank: as a lock alone would not have it. */
      for (int next = 0; next < kThreads; next++) {
        pthread_mutex_lock(&turn);
        if (next == thread) exchange(thread, round_now);
        pthread_mutex_unlock(&turn);
        pthread_barrier_wait(&end);
      }
      continue;
    } else {
      compute(20000);
    }
    pthread_barrier_wait(&end);
  }
}

int main(int argc, char** argv) {
  const char* name = argc > 2 ? argv[2] : "multiple";
  level = strcmp(name, "single") == 0       ? MPI_THREAD_SINGLE
          : strcmp(name, "funneled") == 0   ? MPI_THREAD_FUNNELED
          : strcmp(name, "serialized") == 0 ? MPI_THREAD_SERIALIZED
                                            : MPI_THREAD_MULTIPLE;
  const int told = suite_begin(argc, argv, level);
  if (told != level) give_up("thread level %d, not %d", told, level);
  const int threads = level == MPI_THREAD_SINGLE ? 0 : kThreads;
  pthread_t handles[kThreads];
  pthread_barrier_init(&begin, NULL, (unsigned)threads + 1);
  pthread_barrier_init(&end, NULL, (unsigned)threads + 1);
  for (int i = 0; i < kThreads; i++) MPI_Comm_dup(MPI_COMM_WORLD, &own[i]);
  for (int i = 0; i < threads; i++) pthread_create(&handles[i], NULL, work, (void*)(intptr_t)i);
  int round = 0;
  do {
    round_now = round;
    pthread_barrier_wait(&begin);
    if (level <= MPI_THREAD_FUNNELED)
      for (int i = 0; i < kThreads; i++) exchange(i, round);
    for (int i = 0; i < (level == MPI_THREAD_SERIALIZED ? kThreads : 1); i++) pthread_barrier_wait(&end);
  } while (go_on(round++));
  over = 1;
  pthread_barrier_wait(&begin);
  for (int i = 0; i < threads; i++) pthread_join(handles[i], NULL);
  for (int i = 0; i < kThreads; i++) fold(sums[i]), MPI_Comm_free(&own[i]);
  return suite_end(round);
}
