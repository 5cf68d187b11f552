/* Communicators and intercommunicators, made and freed all the time. */
#include "suite.h"

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  MPI_Group all;
  MPI_Comm_group(MPI_COMM_WORLD, &all);
  int round = 0;
  do {
    MPI_Comm copy, half, later, group, between, merged;
    MPI_Request request;
    const int low = rank < size / 2, colour = low ? 0 : 1;
    uint64_t mine = word(rank, round, 0), sum = 0, wanted = 0;
    MPI_Comm_dup(MPI_COMM_WORLD, &copy);
    MPI_Comm_idup(MPI_COMM_WORLD, &later, &request);
    MPI_Allreduce(&mine, &sum, 1, MPI_UINT64_T, MPI_SUM, copy);
    for (int i = 0; i < size; i++) wanted += word(i, round, 0);
    expect_number(sum, wanted, round, "Comm_dup");
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    MPI_Allreduce(&mine, &sum, 1, MPI_UINT64_T, MPI_SUM, later);
    expect_number(sum, wanted, round, "Comm_idup");

    MPI_Comm_split(copy, colour, rank, &half);
    MPI_Intercomm_create(half, 0, copy, low ? size / 2 : 0, round % 1000, &between);
    uint64_t theirs = 0, others = 0;
    MPI_Allreduce(&mine, &theirs, 1, MPI_UINT64_T, MPI_SUM, between); /* the other side's sum */
    for (int i = low ? size / 2 : 0; i < (low ? size : size / 2); i++) others += word(i, round, 0);
    expect_number(theirs, others, round, "Intercomm_create");
    MPI_Intercomm_merge(between, !low, &merged);
    int place;
    MPI_Comm_rank(merged, &place);
    expect_number((uint64_t)place, (uint64_t)rank, round, "Intercomm_merge");
    if (rank % 2 == 0) {
      MPI_Group even;
      MPI_Group_range_incl(all, 1, (int[][3]){{0, size - 1 - (size - 1) % 2, 2}}, &even);
      MPI_Comm_create_group(MPI_COMM_WORLD, even, 7, &group);
      MPI_Barrier(group);
      MPI_Comm_free(&group);
      MPI_Group_free(&even);
    }
    MPI_Comm_free(&merged);
    MPI_Comm_disconnect(&between);
    MPI_Comm_free(&half);
    MPI_Comm_free(&later);
    MPI_Comm_free(&copy);
  } while (go_on(round++));
  MPI_Group_free(&all);
  return suite_end(round);
}
