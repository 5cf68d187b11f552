/* MPI-IO on the guest's own disk: the ranks of one guest share a file. */
#include "suite.h"

enum { kWords = 2000 };
static uint64_t out[kWords], in[kWords];

int main(int argc, char** argv) {
  suite_begin(argc, argv, MPI_THREAD_SINGLE);
  MPI_Comm guest;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &guest);
  int me, mates;
  MPI_Comm_rank(guest, &me);
  MPI_Comm_size(guest, &mates);
  const int mate = (me + 1) % mates, theirs = rank - me + mate;
  MPI_File file = MPI_FILE_NULL;
  int round = 0;
  do {
    const MPI_Offset mine = (MPI_Offset)sizeof(out) * me, other = (MPI_Offset)sizeof(out) * mate;
    if (round % 10 == 0) {
      if (round > 0) MPI_File_close(&file);
      MPI_File_open(guest, "shared.data", MPI_MODE_CREATE | MPI_MODE_RDWR, MPI_INFO_NULL, &file);
    }
    MPI_Request request;
    fill(out, kWords, rank, 4 * round);
    MPI_File_write_at(file, mine, out, kWords, MPI_UINT64_T, MPI_STATUS_IGNORE);
    MPI_File_sync(file);
    MPI_Barrier(guest);
    MPI_File_read_at(file, other, in, kWords, MPI_UINT64_T, MPI_STATUS_IGNORE);
    expect(in, kWords, theirs, 4 * round, "read_at");
    MPI_Barrier(guest);

    fill(out, kWords, rank, 4 * round + 1);
    MPI_File_write_at_all(file, mine, out, kWords, MPI_UINT64_T, MPI_STATUS_IGNORE);
    MPI_File_sync(file);
    MPI_Barrier(guest);
    MPI_File_read_at_all(file, other, in, kWords, MPI_UINT64_T, MPI_STATUS_IGNORE);
    expect(in, kWords, theirs, 4 * round + 1, "read_at_all");

    fill(out, kWords, rank, 4 * round + 2);
    MPI_Barrier(guest);
    MPI_File_iwrite_at(file, mine, out, kWords, MPI_UINT64_T, &request);
    compute(round % 3 * 3000);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    MPI_Barrier(guest);
    MPI_File_iread_at(file, other, in, kWords, MPI_UINT64_T, &request);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    expect(in, kWords, theirs, 4 * round + 2, "iread_at");
    MPI_Barrier(guest);

    fill(out, kWords, rank, 4 * round + 3);
    MPI_File_seek_shared(file, 0, MPI_SEEK_SET);
    MPI_File_write_ordered(file, out, kWords, MPI_UINT64_T, MPI_STATUS_IGNORE);
    MPI_Barrier(guest);
    MPI_File_read_at(file, other, in, kWords, MPI_UINT64_T, MPI_STATUS_IGNORE);
    expect(in, kWords, theirs, 4 * round + 3, "write_ordered");
    MPI_Barrier(guest);
  } while (go_on(round++));
  MPI_File_close(&file);
  MPI_Comm_free(&guest);
  return suite_end(round);
}
