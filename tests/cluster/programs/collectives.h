/* The data of the collective programs: what each rank gives, and what must come out. */
#include "suite.h"

enum { kRanks = 16, kMost = 4096 };
__attribute__((unused)) static uint64_t give[kRanks * kMost], get[kRanks * kMost], get2[kRanks * kMost],
    get3[kRanks * kMost];
static int counts[kRanks], places[kRanks];

/* Fills at least what Allgatherv and Reduce_scatter of the most ranks need. */
__attribute__((unused)) static void give_words(int n, int round) {
  fill(give, n * size > 1024 ? n * size : 1024, rank, round);
}

/* How many words a rank gives where ranks differ. */
__attribute__((unused)) static int share(int of, int round) { return 1 + (of * 17 + round * 3) % 50; }

__attribute__((unused)) static void lay_out(int round) {
  for (int i = 0, at = 0; i < size; i++) {
    counts[i] = share(i, round);
    places[i] = at;
    at += counts[i];
  }
}

__attribute__((unused)) static void expect_all(const uint64_t* data, int count, int round, const char* what) {
  for (int from = 0; from < size; from++) expect(data + from * count, count, from, round, what);
}

__attribute__((unused)) static void expect_shares(const uint64_t* data, int round, const char* what) {
  lay_out(round);
  for (int from = 0; from < size; from++) expect(data + places[from], counts[from], from, round, what);
}

/* The sum over the first `ranks` ranks, word by word. */
__attribute__((unused)) static void expect_sum(const uint64_t* data, int first, int count, int ranks, int round,
                                               const char* what) {
  for (int i = 0; i < count; i++) {
    uint64_t sum = 0;
    for (int from = 0; from < ranks; from++) sum += word(from, round, first + i);
    if (data[i] != sum) give_up("round %d, %s: word %d is wrong", round, what, i);
  }
  if (count > 0) fold(data[count - 1]);
}

/* What Alltoall brings: of each rank the block meant for this one. */
__attribute__((unused)) static void expect_blocks(const uint64_t* data, int count, int round, const char* what) {
  for (int from = 0; from < size; from++)
    for (int i = 0; i < count; i++)
      if (data[from * count + i] != word(from, round, rank * count + i))
        give_up("round %d, %s: word %d of %d is wrong", round, what, i, from);
  fold(data[0]);
}
