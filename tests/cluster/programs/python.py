#!/usr/bin/python3
"""Messages and collectives from Python, by mpi4py: objects and buffers. PROGRAM ROUNDS, as suite.h has it."""
import array
import ctypes
import os
import sys

from mpi4py import MPI

comm = MPI.COMM_WORLD.Dup()
rank, size = comm.rank, comm.size
right, left = (rank + 1) % size, (rank - 1) % size
wanted, checksum, go, done = int(sys.argv[1]), 1, True, 0
last, restarts, end = int(os.environ.get("SUITE_LAST", -1)), 0, -1
hooks = ctypes.CDLL(None)  # stillpoint.h's own functions, where the program runs under Stillpoint


def last_are_over():
    """Whether the rounds after the restart from SUITE_LAST are over."""
    global restarts, end
    if last > 0 and hooks.stillpoint_hook_restarts() != restarts:
        restarts = hooks.stillpoint_hook_restarts()
        if hooks.stillpoint_hook_epoch() >= last:
            end = done + 20
    return done == end


def words(sender, number, count):
    return [(sender * 1000003 + number * 7919 + i * 104729) % (1 << 62) for i in range(count)]


while go:
    count = 1 + done * 71 % 3000
    out, into = array.array("q", words(rank, done, count)), array.array("q", [0] * count)
    requests = [comm.Irecv([into, MPI.INT64_T], left, 1), comm.Isend([out, MPI.INT64_T], right, 1)]
    MPI.Request.Waitall(requests)
    if into.tolist() != words(left, done, count):
        sys.exit("a wrong word")
    told = comm.sendrecv({"rank": rank, "words": words(rank, done, 20)}, right, 2, None, left, 2)
    if told != {"rank": left, "words": words(left, done, 20)}:
        sys.exit("a wrong object")
    checksum = (checksum * 31 + comm.allreduce(into[-1])) % (1 << 61)
    go = comm.bcast(done + 1 < wanted if wanted > 0 else not os.path.exists("stop") and not last_are_over())
    if rank == 0 and done == 0:
        print("round 0", flush=True)
    done += 1
if rank == 0:
    print(f"rounds {done} checksum {checksum:016x}", flush=True)
comm.Free()
