/* 2-D heat diffusion by Jacobi iteration: halo exchange with the four neighbours and a residual Allreduce in every
 * step.
 *
 *   heat NX NY STEPS REPORT_EVERY [PICTURE.ppm]
 *
 * Prints "step N residual R checksum C" every REPORT_EVERY steps and at the end. Residual (a maximum) and checksum (a
 * sum of integers) do not depend on timing, on the order of messages, or on how many ranks there are: two runs that
 * print different lines have computed different fields. */
#include <math.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NORTH, SOUTH, WEST, EAST, SIDES };

typedef struct {
  int rank, ranks;
  int dims[2], at[2];        /* the grid of ranks and this rank's place in it: rows, columns */
  int neighbour[SIDES];      /* MPI_PROC_NULL at the rim */
  int nx, ny;                /* of the whole field */
  int x0, y0, w, h;          /* this rank's block */
  double *now, *next;        /* (h + 2) rows of (w + 2): the block and its halo */
  unsigned char* fixed;      /* the same shape: cells that keep their temperature */
  double *send[2], *recv[2]; /* west and east columns, packed */
} Field;

static void fail(const char* what) {
  fprintf(stderr, "heat: %s\n", what);
  MPI_Abort(MPI_COMM_WORLD, 2);
  exit(2);
}

static double* doubles(size_t count) {
  double* p = calloc(count, sizeof *p);
  if (!p) fail("out of memory");
  return p;
}

/* The part of `total` that number `index` of `parts` has: where it begins and how long it is. */
static void share(int total, int parts, int index, int* begin, int* length) {
  *begin = (int)((long long)total * index / parts);
  *length = (int)((long long)total * (index + 1) / parts) - *begin;
}

static size_t cell(const Field* f, int x, int y) { return (size_t)(y + 1) * (size_t)(f->w + 2) + (size_t)(x + 1); }

/* Cells that keep their temperature: a hot upper rim, a warm disc, a cold bar. -1 for all others. */
static double held(const Field* f, int x, int y) {
  const double u = (x + 0.5) / f->nx, v = (y + 0.5) / f->ny;
  if (y == 0) return 1.0;
  if (x == 0 || x == f->nx - 1 || y == f->ny - 1) return 0.0;
  if ((u - 0.3) * (u - 0.3) + (v - 0.6) * (v - 0.6) < 0.01) return 0.8;
  if (u > 0.55 && u < 0.85 && v > 0.48 && v < 0.52) return 0.0;
  return -1.0;
}

/* Ranks stand in rows, as MPI_Cart_create would place them. (Its topologies are among the parts of Open MPI that warn
 * when fault tolerance is on.) */
static void place(const int dims[2], int rank, int at[2]) {
  at[0] = rank / dims[1];
  at[1] = rank % dims[1];
}

static int rank_at(const Field* f, int row, int column) {
  const int inside = row >= 0 && row < f->dims[0] && column >= 0 && column < f->dims[1];
  return inside ? row * f->dims[1] + column : MPI_PROC_NULL;
}

static void set_up(Field* f, int nx, int ny) {
  MPI_Comm_size(MPI_COMM_WORLD, &f->ranks);
  MPI_Comm_rank(MPI_COMM_WORLD, &f->rank);
  f->dims[0] = f->dims[1] = 0;
  MPI_Dims_create(f->ranks, 2, f->dims);
  place(f->dims, f->rank, f->at);
  f->neighbour[NORTH] = rank_at(f, f->at[0] - 1, f->at[1]);
  f->neighbour[SOUTH] = rank_at(f, f->at[0] + 1, f->at[1]);
  f->neighbour[WEST] = rank_at(f, f->at[0], f->at[1] - 1);
  f->neighbour[EAST] = rank_at(f, f->at[0], f->at[1] + 1);
  f->nx = nx;
  f->ny = ny;
  share(nx, f->dims[1], f->at[1], &f->x0, &f->w);
  share(ny, f->dims[0], f->at[0], &f->y0, &f->h);
  if (nx < f->dims[1] || ny < f->dims[0]) fail("the field is smaller than the grid of ranks");
  f->now = doubles((size_t)(f->w + 2) * (size_t)(f->h + 2));
  f->next = doubles((size_t)(f->w + 2) * (size_t)(f->h + 2));
  f->fixed = calloc((size_t)(f->w + 2) * (size_t)(f->h + 2), 1);
  if (!f->fixed) fail("out of memory");
  for (int side = 0; side < 2; ++side) {
    f->send[side] = doubles((size_t)f->h);
    f->recv[side] = doubles((size_t)f->h);
  }
  for (int y = 0; y < f->h; ++y)
    for (int x = 0; x < f->w; ++x) {
      const double keeps = held(f, f->x0 + x, f->y0 + y);
      f->fixed[cell(f, x, y)] = keeps >= 0;
      f->now[cell(f, x, y)] = f->next[cell(f, x, y)] = keeps < 0 ? 0.0 : keeps;
    }
}

static void exchange_halo(Field* f) {
  MPI_Request requests[2 * SIDES];
  int n = 0;
  for (int y = 0; y < f->h; ++y) {
    f->send[0][y] = f->now[cell(f, 0, y)];
    f->send[1][y] = f->now[cell(f, f->w - 1, y)];
  }
  /* The tag is the side that the data comes from, seen by the receiver. */
  MPI_Irecv(&f->now[cell(f, 0, -1)], f->w, MPI_DOUBLE, f->neighbour[NORTH], NORTH, MPI_COMM_WORLD, &requests[n++]);
  MPI_Irecv(&f->now[cell(f, 0, f->h)], f->w, MPI_DOUBLE, f->neighbour[SOUTH], SOUTH, MPI_COMM_WORLD, &requests[n++]);
  MPI_Irecv(f->recv[0], f->h, MPI_DOUBLE, f->neighbour[WEST], WEST, MPI_COMM_WORLD, &requests[n++]);
  MPI_Irecv(f->recv[1], f->h, MPI_DOUBLE, f->neighbour[EAST], EAST, MPI_COMM_WORLD, &requests[n++]);
  MPI_Isend(&f->now[cell(f, 0, 0)], f->w, MPI_DOUBLE, f->neighbour[NORTH], SOUTH, MPI_COMM_WORLD, &requests[n++]);
  MPI_Isend(&f->now[cell(f, 0, f->h - 1)], f->w, MPI_DOUBLE, f->neighbour[SOUTH], NORTH, MPI_COMM_WORLD,
            &requests[n++]);
  MPI_Isend(f->send[0], f->h, MPI_DOUBLE, f->neighbour[WEST], EAST, MPI_COMM_WORLD, &requests[n++]);
  MPI_Isend(f->send[1], f->h, MPI_DOUBLE, f->neighbour[EAST], WEST, MPI_COMM_WORLD, &requests[n++]);
  MPI_Waitall(n, requests, MPI_STATUSES_IGNORE);
  for (int y = 0; y < f->h; ++y) {
    if (f->neighbour[WEST] != MPI_PROC_NULL) f->now[cell(f, -1, y)] = f->recv[0][y];
    if (f->neighbour[EAST] != MPI_PROC_NULL) f->now[cell(f, f->w, y)] = f->recv[1][y];
  }
}

/* One step; gives the largest change of any cell of the whole field. */
static double step(Field* f) {
  double change = 0, largest = 0;
  const size_t row = (size_t)(f->w + 2);
  exchange_halo(f);
  for (int y = 0; y < f->h; ++y)
    for (int x = 0; x < f->w; ++x) {
      const size_t c = cell(f, x, y);
      if (f->fixed[c]) continue;
      f->next[c] = 0.25 * ((f->now[c - row] + f->now[c + row]) + (f->now[c - 1] + f->now[c + 1]));
      const double d = fabs(f->next[c] - f->now[c]);
      if (d > change) change = d;
    }
  MPI_Allreduce(&change, &largest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  double* swap = f->now;
  f->now = f->next;
  f->next = swap;
  return largest;
}

static uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

/* Over every bit of every cell, each with its place; on rank 0. */
static uint64_t checksum(const Field* f) {
  uint64_t mine = 0, all = 0;
  for (int y = 0; y < f->h; ++y)
    for (int x = 0; x < f->w; ++x) {
      uint64_t bits;
      memcpy(&bits, &f->now[cell(f, x, y)], sizeof bits);
      mine +=
          mix(bits + UINT64_C(0x9e3779b97f4a7c15) * ((uint64_t)(f->y0 + y) * (uint64_t)f->nx + (uint64_t)(f->x0 + x)));
    }
  MPI_Reduce(&mine, &all, 1, MPI_UINT64_T, MPI_SUM, 0, MPI_COMM_WORLD);
  return all;
}

static void report(const Field* f, int number, double residual) {
  const uint64_t sum = checksum(f);
  if (f->rank != 0) return;
  printf("step %d residual %.12e checksum %016llx\n", number, residual, (unsigned long long)sum);
  fflush(stdout);
}

/* Black, red, yellow, white. */
static void colour(double t, unsigned char rgb[3]) {
  for (int i = 0; i < 3; ++i) {
    double v = t * 3 - i;
    v = v < 0 ? 0 : v > 1 ? 1 : v;
    rgb[i] = (unsigned char)(v * 255 + 0.5);
  }
}

static void write_picture(const double* field, int nx, int ny, const char* path) {
  FILE* file = fopen(path, "wb");
  if (!file) fail("cannot write the picture");
  fprintf(file, "P6\n%d %d\n255\n", nx, ny);
  for (size_t i = 0; i < (size_t)nx * (size_t)ny; ++i) {
    unsigned char rgb[3];
    colour(field[i], rgb);
    fwrite(rgb, 1, 3, file);
  }
  if (ferror(file) || fclose(file) != 0) fail("cannot write the picture");
}

/* All blocks to rank 0, which writes the picture. */
static void gather_picture(const Field* f, const char* path) {
  double* block = doubles((size_t)f->w * (size_t)f->h);
  for (int y = 0; y < f->h; ++y)
    memcpy(&block[(size_t)y * (size_t)f->w], &f->now[cell(f, 0, y)], (size_t)f->w * sizeof *block);
  if (f->rank != 0) {
    MPI_Send(block, f->w * f->h, MPI_DOUBLE, 0, SIDES, MPI_COMM_WORLD);
    free(block);
    return;
  }
  double* whole = doubles((size_t)f->nx * (size_t)f->ny);
  for (int rank = 0; rank < f->ranks; ++rank) {
    int at[2], x0, y0, w, h;
    place(f->dims, rank, at);
    share(f->nx, f->dims[1], at[1], &x0, &w);
    share(f->ny, f->dims[0], at[0], &y0, &h);
    double* piece = rank == 0 ? block : doubles((size_t)w * (size_t)h);
    if (rank != 0) MPI_Recv(piece, w * h, MPI_DOUBLE, rank, SIDES, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    for (int y = 0; y < h; ++y)
      memcpy(&whole[(size_t)(y0 + y) * (size_t)f->nx + (size_t)x0], &piece[(size_t)y * (size_t)w],
             (size_t)w * sizeof *piece);
    free(piece);
  }
  write_picture(whole, f->nx, f->ny, path);
  free(whole);
}

static int number(const char* text, int least, int most) {
  char* end;
  const long value = strtol(text, &end, 10);
  if (*text == 0 || *end != 0 || value < least || value > most)
    fail("usage: heat NX NY STEPS REPORT_EVERY [PICTURE.ppm]");
  return (int)value;
}

int main(int argc, char** argv) {
  Field f;
  double residual = 0;
  MPI_Init(&argc, &argv);
  if (argc < 5 || argc > 6) fail("usage: heat NX NY STEPS REPORT_EVERY [PICTURE.ppm]");
  const int nx = number(argv[1], 4, 20000), ny = number(argv[2], 4, 20000);
  const int steps = number(argv[3], 1, 1000000000), every = number(argv[4], 1, 1000000000);
  set_up(&f, nx, ny);
  if (f.rank == 0) {
    printf("heat %d x %d on %d ranks, %d steps\n", nx, ny, f.ranks, steps);
    fflush(stdout);
  }
  for (int n = 1; n <= steps; ++n) {
    residual = step(&f);
    if (n % every == 0 || n == steps) report(&f, n, residual);
  }
  if (argc == 6) gather_picture(&f, argv[5]);
  for (int side = 0; side < 2; ++side) {
    free(f.send[side]);
    free(f.recv[side]);
  }
  free(f.now);
  free(f.next);
  free(f.fixed);
  MPI_Finalize();
  return 0;
}
