! Messages and collectives from Fortran, by use mpi_f08: PROGRAM ROUNDS, as suite.h has it.
program suite
  use mpi_f08
  use stillpoint, only: stillpoint_epoch, stillpoint_restarts
  implicit none
  integer, parameter :: most = 20000
  type(MPI_Comm) :: comm
  type(MPI_Request) :: requests(2)
  integer :: rank, ranks, ierror, rounds, round, n, left, right, i
  integer :: go, restarts, end_round
  integer(8) :: last
  integer(8) :: mine, total, checksum
  integer(8) :: out(most), in(most)
  character(len=20) :: word
  logical :: stopped
  call MPI_Init(ierror)
  call MPI_Comm_dup(MPI_COMM_WORLD, comm, ierror)
  call MPI_Comm_rank(comm, rank, ierror)
  call MPI_Comm_size(comm, ranks, ierror)
  call get_command_argument(1, word)
  read (word, *) rounds
  last = huge(last)
  call get_environment_variable("SUITE_LAST", word, status=ierror)
  if (ierror == 0) read (word, *) last
  restarts = 0
  end_round = -1
  right = mod(rank + 1, ranks)
  left = mod(rank + ranks - 1, ranks)
  checksum = 1
  round = 0
  do
    n = 1 + mod(round * 71, most - 1)
    do i = 1, n
      out(i) = value(rank, round, i)
    end do
    call MPI_Irecv(in, n, MPI_INTEGER8, left, 1, comm, requests(1), ierror)
    call MPI_Isend(out, n, MPI_INTEGER8, right, 1, comm, requests(2), ierror)
    call MPI_Waitall(2, requests, MPI_STATUSES_IGNORE, ierror)
    do i = 1, n
      if (in(i) /= value(left, round, i)) error stop "a wrong word"
    end do
    mine = in(n)
    call MPI_Allreduce(mine, total, 1, MPI_INTEGER8, MPI_BXOR, comm, ierror)
    checksum = ieor(ishftc(checksum, 5), total)
    go = 0
    inquire (file="stop", exist=stopped)
    if (rounds > 0 .and. round + 1 < rounds) go = 1
    if (stillpoint_restarts() /= restarts) then
      restarts = stillpoint_restarts()
      if (stillpoint_epoch() >= last) end_round = round + 20
    end if
    if (rounds == 0 .and. .not. stopped .and. round /= end_round) go = 1
    call MPI_Bcast(go, 1, MPI_INTEGER, 0, comm, ierror)
    if (rank == 0 .and. round == 0) then
      print "(a)", "round 0"
      flush (6)
    end if
    round = round + 1
    if (go == 0) exit
  end do
  if (rank == 0) print "(a, i0, a, z16.16)", "rounds ", round, " checksum ", checksum
  call MPI_Comm_free(comm, ierror)
  call MPI_Finalize(ierror)
contains
  integer(8) function value(from, round, i)
    integer, intent(in) :: from, round, i
    value = int(from, 8) * 1000003_8 + int(round, 8) * 7919_8 + int(i, 8) * 104729_8
    value = ieor(value, ishftc(value, 23))
  end function
end program
