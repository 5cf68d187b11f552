/* First program of the benchmark's guest, after init: touches memory and changes pages of it at a given rate, and says
 * over its port how far it is. Its work never waits: a step computes for a while and then writes to one page, so
 * whatever keeps it from running, for however short a time, is work that was not done.
 *
 *   touch MIB      fill so much memory, half of each page with bytes that do not compress; answer "touched"
 *   rate MBPS      from now on 4096 bytes per step, so many steps that 10^6 * MBPS bytes are changed per second of
 *                  undisturbed running; answer "runs STEPS-PER-SECOND"
 * From then on a line "s STEPS" about every millisecond.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096 };

static int port;
static unsigned char* memory;
static size_t pages;
static uint64_t state = 88172645463325252u;
static volatile uint64_t sink;

static uint64_t next(void) {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void say(const char* line) {
  size_t left = strlen(line);
  while (left > 0) {
    const ssize_t n = write(port, line, left);
    if (n > 0) line += n, left -= (size_t)n;
    else if (n < 0 && errno != EINTR && errno != EAGAIN) return;
  }
}

static void compute(uint64_t turns) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < turns; ++i) sum = sum * 6364136223846793005u + i;
  sink = sum;
}

static void step(uint64_t turns) {
  compute(turns);
  const uint64_t word = next();
  memcpy(memory + word % pages * PAGE + (word >> 32) % (PAGE / 8) * 8, &word, 8);
}

static void touch(size_t mebibytes) {
  pages = mebibytes << 8;
  memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return say("failed\n");
  for (size_t page = 0; page < pages; ++page)
    for (size_t at = 0; at < PAGE / 2; at += 8) {
      const uint64_t word = next();
      memcpy(memory + page * PAGE + at, &word, 8);
    }
  say("touched\n");
}

/* Turns of compute() that make a step take as long as the rate asks; the quickest of a few looks. */
static uint64_t calibrate(double step_ns) {
  uint64_t turns = 1000;
  for (int round = 0; round < 4; ++round) {
    double best = 1e18;
    const uint64_t steps = (uint64_t)(1e8 / step_ns) + 1;
    for (int look = 0; look < 5; ++look) {
      const uint64_t begin = now_ns();
      for (uint64_t i = 0; i < steps; ++i) step(turns);
      const double took = (double)(now_ns() - begin) / (double)steps;
      if (took < best) best = took;
    }
    const double wanted = (double)turns * step_ns / best;
    turns = wanted < 1 ? 1 : (uint64_t)wanted;
  }
  return turns;
}

static void run(double rate, char* input, size_t room) {
  const double step_ns = PAGE * 1e9 / (rate * 1e6);
  const uint64_t turns = calibrate(step_ns);
  char line[64];
  snprintf(line, sizeof line, "runs %.0f\n", 1e9 / step_ns);
  say(line);
  uint64_t said = now_ns();
  for (uint64_t steps = 1;; ++steps) {
    step(turns);
    const uint64_t now = now_ns();
    if (now - said < 1000000) continue;
    said = now;
    snprintf(line, sizeof line, "s %llu\n", (unsigned long long)steps);
    say(line);
    struct pollfd asked = {port, POLLIN, 0};
    if (poll(&asked, 1, 0) <= 0 || !(asked.revents & POLLIN)) continue;
    const ssize_t n = read(port, input, room - 1);
    if (n <= 0) continue;
    input[n] = '\0';
    return;
  }
}

int main(int argc, char** argv) {
  if (argc != 2 || (port = open(argv[1], O_RDWR)) < 0) return 1;
  char input[256];
  double value = 0;
  for (int read_more = 1;;) {
    if (read_more) {
      const ssize_t n = read(port, input, sizeof input - 1);
      if (n <= 0) {
        usleep(20000);
        continue;
      }
      input[n] = '\0';
    }
    read_more = 1;
    if (sscanf(input, "touch %lf", &value) == 1) touch((size_t)value);
    else if (sscanf(input, "rate %lf", &value) == 1 && memory != NULL && value > 0) {
      run(value, input, sizeof input);
      read_more = 0;
    }
  }
}
