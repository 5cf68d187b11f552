"""The agent's end of mpi-hooks/core/rank_link.h, for tests: accepts ranks, sends, waits for answers with deadlines."""
import os
import select
import socket
import struct
import time

HELLO, READY, CLOSED, FIGURES, OPENED, FINALIZING, PEER_FAILED, DEFERRING, FINALIZED, WISH, PEER_KILLED = range(1, 12)
CLOSE, COUNT, OPEN, QUERY = range(32, 36)
STARTING, COMPUTING, IN_CALL, GATED, DONE, _, DEFERS = range(1, 8)
PACKET = struct.Struct("<IIQiIIIQQ40s40sII16s")
VERSION = 4
assert PACKET.size == 152


class Failed(Exception):
    pass


class Rank:
    """One connection."""

    def __init__(self, link):
        self.link = link
        self.rank, self.size = -1, 0
        self.hello = self.ready = self.finalized = self.gone = False
        self.peer_failed = None
        self.last = {}  # message -> the newest packet of it

    def read(self):
        try:
            data = self.link.recv(4096)
        except ConnectionResetError:  # it ended without having read what was sent to it
            data = b""
        if not data:
            self.gone = True
            return
        version, message, epoch, rank, value, state, busy, calls, since, call, comm, peers, spawned, transport = PACKET.unpack(data)
        if version != VERSION:
            raise Failed(f"a rank speaks version {version}")
        packet = {"message": message, "epoch": epoch, "rank": rank, "value": value, "state": state, "busy": busy,
                  "calls": calls, "since": since, "call": call.rstrip(b"\0").decode(), "communicator": comm.rstrip(b"\0").decode(), "peers": peers,
                  "spawned": spawned, "transport": transport.rstrip(b"\0").decode()}
        self.last[message] = packet
        self.hello |= message == HELLO
        self.finalized |= message == FINALIZED
        if message == READY:
            self.ready, self.rank, self.size = True, rank, value
        if message in (PEER_FAILED, PEER_KILLED):
            self.peer_failed = value

    def send(self, message, epoch, incarnation=0):
        self.last.pop({CLOSE: CLOSED, COUNT: FIGURES, QUERY: FIGURES, OPEN: OPENED}[message], None)
        try:
            self.link.send(PACKET.pack(VERSION, message, epoch, -1, incarnation, 0, 0, 0, 0, b"", b"", 0, 0, b""))
        except OSError:
            self.gone = True


class Agent:
    def __init__(self, path):
        self.path = path
        self.listener = None
        self.ranks = []
        self.listen()

    def listen(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        self.listener.listen(64)

    def close(self):
        """As if the agent had died."""
        for rank in self.ranks:
            rank.link.close()
        self.ranks = []
        self.listener.close()
        os.unlink(self.path)

    def turn(self, seconds):
        fds = [self.listener] + [rank.link for rank in self.ranks if not rank.gone]
        readable, _, _ = select.select(fds, [], [], max(0, seconds))
        for fd in readable:
            if fd is self.listener:
                self.ranks.append(Rank(fd.accept()[0]))
                continue
            next(rank for rank in self.ranks if rank.link is fd).read()
        for rank in self.ranks:
            if rank.gone:
                rank.link.close()
        self.ranks = [rank for rank in self.ranks if not rank.gone]

    def until(self, condition, what, seconds=20):
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failed(f"not within {seconds} s: {what}; " +
                             "; ".join(f"rank {r.rank}: {list(r.last.values())[-1:]}" for r in self.ranks))
            self.turn(min(left, 1))

    def idle(self, seconds):
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.turn(left)

    def ask(self, message, epoch, answer):
        """Sends to all ranks; the answers, in the order of the ranks that are still there."""
        for rank in self.ranks:
            rank.send(message, epoch)
        self.until(lambda: all(answer in r.last for r in self.ranks), f"answer {answer} to {message} of epoch {epoch}")
        for rank in self.ranks:
            if rank.last[answer]["epoch"] != epoch:
                raise Failed(f"an answer of epoch {rank.last[answer]['epoch']} in epoch {epoch}")
        return [rank.last[answer] for rank in self.ranks]
