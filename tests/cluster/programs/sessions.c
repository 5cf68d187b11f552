/* A program of sessions alone: no MPI_Init, no world. Short sessions come and go beside the one that lasts. */
#include "suite.h"

static MPI_Comm from_session(MPI_Session session, const char* processes, const char* name) {
  MPI_Group group;
  MPI_Comm made;
  MPI_Group_from_session_pset(session, processes, &group);
  MPI_Comm_create_from_group(group, name, MPI_INFO_NULL, MPI_ERRORS_ARE_FATAL, &made);
  MPI_Group_free(&group);
  return made;
}

int main(int argc, char** argv) {
  static uint64_t out[9000], in[9000];
  MPI_Session session;
  MPI_Session_init(MPI_INFO_NULL, MPI_ERRORS_ARE_FATAL, &session);
  MPI_Comm world = from_session(session, "mpi://WORLD", "stillpoint.suite");
  suite_enter(world, argc > 1 ? argv[1] : NULL);
  const int right = (rank + 1) % size, left = (rank + size - 1) % size;
  int round = 0;
  do {
    const int n = 1 + round * 29 % 8999;
    fill(out, n, rank, round);
    MPI_Sendrecv(out, n, MPI_UINT64_T, right, 1, in, n, MPI_UINT64_T, left, 1, world, MPI_STATUS_IGNORE);
    expect(in, n, left, round, "Sendrecv");
    uint64_t mine = word(rank, round, 0), most = 0, wanted = 0;
    MPI_Allreduce(&mine, &most, 1, MPI_UINT64_T, MPI_MAX, world);
    for (int i = 0; i < size; i++) wanted = word(i, round, 0) > wanted ? word(i, round, 0) : wanted;
    expect_number(most, wanted, round, "Allreduce");
    if (round % 50 == 7) {
      MPI_Session shortly;
      MPI_Session_init(MPI_INFO_NULL, MPI_ERRORS_ARE_FATAL, &shortly);
      int sets = 0;
      MPI_Session_get_num_psets(shortly, MPI_INFO_NULL, &sets);
      if (sets < 2) give_up("%d process sets", sets);
      MPI_Session_finalize(&shortly);
    }
  } while (go_on(round++));
  suite_leave(round);
  MPI_Comm_free(&world);
  MPI_Session_finalize(&session);
  return 0;
}
