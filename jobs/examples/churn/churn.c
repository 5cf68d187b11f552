/* Memory of which a part keeps changing, and a file that keeps growing; both are checked whole at every step.
 *
 *   churn STEPS [MEBIBYTES [PERCENT [SEED]]]
 *
 * Every rank has so much memory, and a file churn-RANK.txt in the working directory. In each step it changes PERCENT of
 * its pages at random places, checks that every page holds what it must, appends a line to its file, and reads the file
 * back from the disk, not from the cache, line by line. What must be where follows from seed, rank and step alone.
 * Prints "churn N memory C file C" after each step, with checksums over all ranks. At the first wrong byte: says which,
 * and ends with exit code 1.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PAGE = 4096, LINE = 40, ROOM = 64 };

typedef struct {
  int rank;
  uint64_t seed;
  size_t pages;
  unsigned char* memory;
  uint32_t* version; /* of each page: how often it was changed */
  char file[64];
} Churn;

static void fail(const char* what, uint64_t where, int code) {
  fprintf(stderr, "churn: %s %llu\n", what, (unsigned long long)where);
  fflush(stderr);
  MPI_Abort(MPI_COMM_WORLD, code);
  exit(code);
}

static uint64_t mix(uint64_t z) {
  z += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static uint64_t key_of(const Churn* c, uint64_t a, uint64_t b) {
  return mix(mix(mix(c->seed + (uint64_t)c->rank) + a) + b);
}

/* What a page holds in its present version. */
static void content(const Churn* c, size_t page, uint64_t* words) {
  uint64_t word = key_of(c, page, c->version[page]) | 1;
  for (size_t i = 0; i < PAGE / sizeof *words; ++i) {
    word ^= word << 13;
    word ^= word >> 7;
    word ^= word << 17;
    words[i] = word;
  }
}

static void change(Churn* c, size_t page) {
  uint64_t words[PAGE / sizeof(uint64_t)];
  ++c->version[page];
  content(c, page, words);
  memcpy(c->memory + page * PAGE, words, PAGE);
}

static uint64_t check_memory(const Churn* c, uint64_t step) {
  uint64_t words[PAGE / sizeof(uint64_t)], sum = 0;
  for (size_t page = 0; page < c->pages; ++page) {
    content(c, page, words);
    if (memcmp(c->memory + page * PAGE, words, PAGE) != 0) {
      fprintf(stderr, "churn: WRONG PAGE %zu of rank %d in step %llu\n", page, c->rank, (unsigned long long)step);
      fail("wrong memory in step", step, 1);
    }
    sum += mix(words[0] ^ page);
  }
  return sum;
}

static void line_of(const Churn* c, uint64_t step, char* line) {
  snprintf(line, ROOM, "%19llu %019llx\n", (unsigned long long)step, (unsigned long long)key_of(c, step, ~UINT64_C(0)));
}

static void append(const Churn* c, uint64_t step) {
  char line[ROOM];
  line_of(c, step, line);
  const int file = open(c->file, O_WRONLY | O_CREAT | O_APPEND | (step == 1 ? O_TRUNC : 0), 0600);
  if (file < 0 || write(file, line, LINE) != LINE || fsync(file) != 0)
    fail("cannot append to the file in step", step, 2);
  /* The cache is part of the memory: without it the lines come from the disk. */
  if (posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) != 0) fail("cannot drop the cache in step", step, 2);
  close(file);
}

static uint64_t check_file(const Churn* c, uint64_t step) {
  char line[ROOM], got[LINE];
  uint64_t sum = 0;
  FILE* file = fopen(c->file, "r");
  if (file == NULL) fail("cannot open the file in step", step, 2);
  for (uint64_t at = 1; at <= step; ++at) {
    line_of(c, at, line);
    if (fread(got, 1, LINE, file) != LINE || memcmp(got, line, LINE) != 0) {
      fprintf(stderr, "churn: WRONG LINE %llu in the file of rank %d in step %llu\n", (unsigned long long)at, c->rank,
              (unsigned long long)step);
      fail("wrong file in step", step, 1);
    }
    sum += key_of(c, at, 1);
  }
  if (fgetc(file) != EOF) fail("the file is too long in step", step, 1);
  fclose(file);
  return sum;
}

static unsigned long long argument(int argc, char** argv, int at, unsigned long long otherwise) {
  return argc > at ? strtoull(argv[at], NULL, 10) : otherwise;
}

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  Churn c = {0};
  MPI_Comm_rank(MPI_COMM_WORLD, &c.rank);
  const uint64_t steps = argument(argc, argv, 1, 100);
  c.pages = argument(argc, argv, 2, 32) * (1024 * 1024 / PAGE);
  const uint64_t percent = argument(argc, argv, 3, 5);
  c.seed = argument(argc, argv, 4, 1);
  c.memory = aligned_alloc(PAGE, c.pages * PAGE);
  c.version = calloc(c.pages, sizeof *c.version);
  if (c.pages == 0 || c.memory == NULL || c.version == NULL) fail("not so much memory, pages:", c.pages, 2);
  snprintf(c.file, sizeof c.file, "churn-%d.txt", c.rank);
  for (size_t page = 0; page < c.pages; ++page) change(&c, page);

  for (uint64_t step = 1; step <= steps; ++step) {
    for (uint64_t i = 0; i < c.pages * percent / 100; ++i) change(&c, key_of(&c, step, i + 2) % c.pages);
    append(&c, step);
    const uint64_t own[2] = {check_memory(&c, step), check_file(&c, step)};
    uint64_t all[2];
    MPI_Allreduce(own, all, 2, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    if (c.rank == 0) {
      printf("churn %llu memory %016llx file %016llx\n", (unsigned long long)step, (unsigned long long)all[0],
             (unsigned long long)all[1]);
      fflush(stdout);
    }
  }
  free(c.memory);
  free(c.version);
  MPI_Finalize();
  return 0;
}
