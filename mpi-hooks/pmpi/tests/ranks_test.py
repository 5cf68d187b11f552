#!/usr/bin/env python3
"""The hook library in real ranks of an unmodified program, under an agent that closes and opens their gates.

    ranks_test.py CHECKOUT BUILD_DIRECTORY [CASE…]

Runs in a network namespace of its own, with mpirun in the guest SDK (scripts/guest-cc). BUILD_DIRECTORY holds
guest-files/libstillpoint-mpi.so and tests/hooks/traffic. Prints one line per case; exits with 1 when one failed.
"""
import contextlib
import os
import random
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import fake_agent as fa  # noqa: E402

CYCLES = 50


def tcp_unacknowledged():
    """Bytes that TCP in this namespace has not delivered and had acknowledged, over all its sockets."""
    total = 0
    for family in ("tcp", "tcp6"):
        with open(f"/proc/net/{family}", encoding="ascii") as table:
            for line in list(table)[1:]:
                fields = line.split()
                if fields[3] == "01":
                    total += int(fields[4].split(":")[0], 16)
    return total


class Place:
    """Where the cases run: paths outside and inside the SDK, and how mpirun is started there."""

    def __init__(self, checkout, build):
        self.checkout, self.build = os.path.realpath(checkout), os.path.realpath(build)
        self.directory = os.path.join(self.build, "tests/hooks")
        os.makedirs(self.directory, exist_ok=True)
        self.socket = os.path.relpath(os.path.join(self.directory, "agent.sock"))
        os.chdir(self.directory)
        self.socket = "agent.sock"

    def inside(self, path):
        return "/mnt/checkout/" + os.path.relpath(os.path.join(self.build, path), self.checkout)

    def mpirun(self, ranks, arguments, preload=True, btl="self,tcp", program="./traffic"):
        command = [os.path.join(self.checkout, "scripts/guest-cc"), "--with", "mpirun", "--allow-run-as-root",
                   "--oversubscribe", "--with-ft", "ulfm", "--mca", "pml", "ob1", "--mca", "btl", btl,
                   "--mca", "btl_tcp_if_include", "e0", "--mca", "osc", "^ucx", "-np", str(ranks)]
        if preload:
            command += ["-x", "LD_PRELOAD=" + self.inside("guest-files/libstillpoint-mpi.so"),
                        "-x", "STILLPOINT_AGENT_SOCKET=" + self.inside("tests/hooks/agent.sock")]
        return Job(command + [program] + [str(a) for a in arguments])


class Job:
    """A run of the program. With 0 rounds it goes on until stop(): as long as the test needs, on a busy machine too."""

    def __init__(self, command):
        if os.path.exists("stop"):
            os.unlink("stop")
        self.output = open("output", "w+", encoding="utf-8")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.output,
                                        stderr=subprocess.STDOUT, start_new_session=True)

    def running(self):
        return self.process.poll() is None

    def stop(self):
        with open("stop", "w", encoding="utf-8"):
            pass

    def text(self):
        with open("output", encoding="utf-8") as output:
            return output.read()

    def finish(self, seconds=200):
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise fa.Failed(f"the job hangs; its output so far:\n{self.text()}") from None
        if code != 0:
            raise fa.Failed(f"the job ended with {code}:\n{self.text()}")
        return [line for line in self.text().splitlines() if " checksum " in line][0]

    def rank_pids(self):
        """The processes of the program, in the order of their ranks. They are descendants of ours."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    environ = dict(v.split(b"=", 1) for v in file.read().split(b"\0") if b"=" in v)
                with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                    name = file.read().strip()
                if name in ("traffic", "calls") and os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
                    found[int(environ[b"OMPI_COMM_WORLD_RANK"])] = int(pid)
            except (OSError, KeyError):
                continue
        return [found[rank] for rank in sorted(found)]

    def end(self):
        if self.running():
            ranks = self.rank_pids()  # not in mpirun's process group; the next case's agent would hear of them
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            for pid in ranks:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.output.close()


def cycle(agent, epoch, threads=1):
    """One checkpoint's worth of quiescing: what the real agents do, short of the freeze. Seconds until quiet."""
    begun = time.monotonic()
    agent.ask(fa.CLOSE, epoch, fa.CLOSED)
    before = None
    while True:
        figures = agent.ask(fa.COUNT, epoch, fa.FIGURES)
        now = (tuple(f["calls"] for f in figures), tcp_unacknowledged())
        if not any(f["busy"] for f in figures) and now == before and now[1] == 0:
            break
        before = now
        if time.monotonic() - begun > 20:
            raise fa.Failed(f"not quiet after 20 s: {figures}, {now[1]} bytes unacknowledged")
    took = time.monotonic() - begun
    # Nothing starts any more. A call that was asleep may still return (that is what FREEZE and VERIFY are for); its
    # thread then meets the gate, which counts as one more of each thread.
    agent.idle(random.uniform(0, 0.01))
    for later, earlier in zip(agent.ask(fa.COUNT, epoch, fa.FIGURES), figures):
        if later["calls"] > earlier["calls"] + threads:
            raise fa.Failed(f"a call started behind a shut gate: {earlier}, then {later}")
    agent.ask(fa.OPEN, epoch, fa.OPENED)
    return took


def same_as_undisturbed(place, job, ranks, arguments):
    """The ended job's result is that of as many rounds without the library."""
    result = job.finish()
    job.end()
    plain = place.mpirun(ranks, (int(result.split()[1]),) + arguments[1:], preload=False)
    try:
        if (expected := plain.finish()) != result:
            raise fa.Failed(f"the job's result is {result}, undisturbed {expected}")
    finally:
        plain.end()


def cycled(place, ranks, arguments, btl="self,tcp", threads=1):
    """The program under an agent that quiesces it at random moments ends with the same checksum."""
    agent = fa.Agent(place.socket)
    job = place.mpirun(ranks, arguments, btl=btl)
    try:
        agent.until(lambda: sum(r.ready for r in agent.ranks) == ranks, "all ranks are ready")
        sizes = {(r.rank, r.size) for r in agent.ranks}
        if sizes != {(r, ranks) for r in range(ranks)}:
            raise fa.Failed(f"the ranks introduced themselves as {sizes}")
        times, states = [], set()
        while len(times) < CYCLES:
            if not job.running():
                raise fa.Failed(f"the program was over after {len(times)} cycles: {job.text()}")
            times.append(cycle(agent, len(times) + 1, threads))
            states |= {r.last[fa.FIGURES]["state"] for r in agent.ranks}
            agent.idle(random.uniform(0, 0.02))
        job.stop()
        agent.until(lambda: not job.running(), "the job ends", 120)
        same_as_undisturbed(place, job, ranks, arguments)
        names = {fa.COMPUTING: "computing", fa.IN_CALL: "in a call", fa.GATED: "gated", fa.DONE: "finalized"}
        times.sort()
        return (f"{len(times)} cycles, quiet after {times[len(times) // 2] * 1000:.1f} ms (median), "
                f"{times[-1] * 1000:.1f} ms (worst); ranks found {', '.join(names[s] for s in sorted(states))}")
    finally:
        job.end()
        agent.close()


def case_single(place):
    return cycled(place, 3, (0, 11))


def case_flood(place):
    """A rank that computes while others send into it: only the helper's pumping lets the sockets run empty."""
    arguments = (151, 12, "single", "flood")
    agent = fa.Agent(place.socket)
    job = place.mpirun(2, arguments)
    try:
        agent.until(lambda: sum(r.ready for r in agent.ranks) == 2, "all ranks are ready")
        most = met = 0
        for epoch in range(1, 1000):
            # At rest but for what the receiver does not take: it computes, and its sender waits.
            while job.running() and (stuck := tcp_unacknowledged()) < 100_000:
                agent.turn(0.005)
            if not job.running():
                break
            try:
                times = cycle(agent, epoch)
            except fa.Failed:
                # The program's end: one is in MPI_Finalize and waits for another that is parked. Real agents reopen then.
                if not any(r.last.get(fa.DEFERRING, {}).get("epoch") == epoch for r in agent.ranks):
                    raise
                for rank in agent.ranks:
                    rank.send(fa.OPEN, epoch)
                continue
            computing = any(r.last[fa.FIGURES]["state"] == fa.COMPUTING for r in agent.ranks)
            if computing:
                met, most = met + 1, max(most, stuck)
        agent.until(lambda: not job.running(), "the job ends", 120)
        if not met:
            raise fa.Failed("the flood never met a computing rank: nothing was tried")
        same_as_undisturbed(place, job, 2, arguments)
        return f"{met} times up to {most} bytes pumped into a computing rank, the last within {times * 1000:.1f} ms"
    finally:
        job.end()
        agent.close()


def case_multiple(place):
    return cycled(place, 2, (0, 13, "multiple"), threads=2)


def case_shared_memory(place):
    return cycled(place, 4, (0, 14), btl="self,sm")


def case_inert(place):
    """Without an agent the library starts no thread and changes nothing."""
    arguments = (0, 15, "serialized")
    job = place.mpirun(2, arguments)
    try:
        deadline = time.monotonic() + 20
        while "round 0" not in job.text() and time.monotonic() < deadline:
            time.sleep(0.01)
        for pid in job.rank_pids():
            names = [open(f"/proc/{pid}/task/{task}/comm", encoding="utf-8").read().strip()
                     for task in os.listdir(f"/proc/{pid}/task")]
            if "stillpoint" in names:
                raise fa.Failed(f"threads without an agent: {names}")
        job.stop()
        same_as_undisturbed(place, job, 2, arguments)
        return "no thread, the same result"
    finally:
        job.end()


def case_level(place):
    """The program is told the level that it asked for."""
    agent = fa.Agent(place.socket)
    job = place.mpirun(2, (5, 16))
    try:
        agent.until(lambda: not job.running(), "the job ends")
        job.finish()
        if "level asked=0 told=0 queried=0" not in job.text():
            raise fa.Failed("the program was told another level: " + job.text())
        return "SINGLE asked, SINGLE told"
    finally:
        job.end()
        agent.close()


def waiting_in_call(place, what, call):
    """A job of two whose rank 1 sits in a call and whose rank 0 is outside MPI: (agent, job, figures of rank 1)."""
    agent = fa.Agent(place.socket)
    job = place.mpirun(2, (what,), program="./calls")
    try:
        agent.until(lambda: sum(r.ready for r in agent.ranks) == 2, "all ranks are ready")

        def sits():
            agent.ask(fa.QUERY, 0, fa.FIGURES)
            return any(r.last[fa.FIGURES]["call"] == call for r in agent.ranks)
        agent.until(sits, "rank 1 is in " + call)
        return agent, job, next(r for r in agent.ranks if r.rank == 1)
    except BaseException:
        job.end()
        agent.close()
        raise


def case_describe(place):
    """In which call, since when, on which communicator with how many peers; and the point-to-point layer."""
    agent, job, rank = waiting_in_call(place, "barrier", "MPI_Barrier")
    try:
        first = agent.ask(fa.QUERY, 0, fa.FIGURES)[agent.ranks.index(rank)]
        agent.idle(1.2)
        later = agent.ask(fa.QUERY, 0, fa.FIGURES)[agent.ranks.index(rank)]
        if (first["communicator"], first["peers"], first["transport"]) != ("rows", 2, "ob1"):
            raise fa.Failed(f"described as {first}")
        if first["since"] != later["since"] or first["calls"] != later["calls"]:
            raise fa.Failed(f"the same call was given another age: {first}, {later}")
        job.stop()
        agent.until(lambda: not job.running(), "the job ends")
        return f"{first['call']} on {first['communicator']}, {first['peers']} processes, pml {first['transport']}"
    finally:
        job.end()
        agent.close()


def deferred(agent, rank):
    """A close that meets a call which must finish first: answered as such, taken back, and all go on."""
    for each in agent.ranks:
        each.last.clear()
        each.send(fa.CLOSE, 1)
    agent.until(lambda: fa.DEFERRING in rank.last, "rank 1 says that it defers")
    agent.idle(0.3)
    if fa.CLOSED in rank.last:
        raise fa.Failed("a rank inside a call that must finish first said closed")
    agent.ask(fa.OPEN, 1, fa.OPENED)


def case_defer_finalize(place):
    """A rank in MPI_Finalize is not at rest until it is through."""
    agent, job, rank = waiting_in_call(place, "finalize", "MPI_Finalize")
    try:
        deferred(agent, rank)
        job.stop()
        agent.until(lambda: not job.running(), "the job ends")
        if job.process.returncode != 0 or "over" not in job.text():
            raise fa.Failed(f"the job ended with {job.process.returncode}: {job.text()}")
        return "deferring until MPI_Finalize was over"
    finally:
        job.end()
        agent.close()


def case_defer_spawn(place):
    """A rank in MPI_Comm_spawn waits for the other, which an open gate lets come; then all can be closed, the child too."""
    agent, job, rank = waiting_in_call(place, "spawn", "MPI_Comm_spawn")
    try:
        deferred(agent, rank)
        job.stop()
        agent.until(lambda: not job.running() or len(agent.ranks) == 3, "the child comes")
        agent.until(lambda: not job.running(), "the job ends")
        if job.process.returncode != 0 or "over" not in job.text():
            raise fa.Failed(f"the job ended with {job.process.returncode}: {job.text()}")
        return "deferring until the other rank had come to it"
    finally:
        job.end()
        agent.close()


def case_api(place):
    """stillpoint.h: a wish, a critical section that puts the checkpoint off, callbacks, epoch and restarts."""
    agent, job, rank = waiting_in_call(place, "api", "MPI_Barrier")
    try:
        first = next(r for r in agent.ranks if r.rank == 0)
        agent.until(lambda: fa.WISH in first.last, "rank 0 asks for a checkpoint")
        for each in agent.ranks:
            each.send(fa.OPEN, 0, incarnation=1)
            each.send(fa.CLOSE, 5)
        agent.until(lambda: fa.DEFERRING in first.last and fa.CLOSED in rank.last, "rank 0 puts it off")
        if first.last[fa.DEFERRING]["call"] != "stillpoint_forbid":
            raise fa.Failed(f"put off because of {first.last[fa.DEFERRING]}")
        job.stop()
        agent.until(lambda: fa.CLOSED in first.last, "the critical section is over")
        for each in agent.ranks:
            each.send(fa.OPEN, 5, incarnation=2)
        agent.until(lambda: not job.running(), "the job ends")
        for line in ("wanted 1", "callback before", "callback restarted", "epoch 5 restarts 1", "over"):
            if line not in job.text():
                raise fa.Failed(f"it did not say '{line}': {job.text()}")
        if "callback after" in job.text():
            raise fa.Failed("a restored process was told that it went on: " + job.text())
        plain = place.mpirun(2, ("api",), preload=False, program="./calls")
        try:
            agent.until(lambda: not plain.running(), "the same program without the library ends")
            if "over" not in plain.text():
                raise fa.Failed("without the library: " + plain.text())
        finally:
            plain.end()
        return "put off, taken, called back; and the program runs without the library"
    finally:
        job.end()
        agent.close()


def case_errors(place):
    """An error of the program's own ends it as it would without the library; a handler that it set is left alone."""
    agent = fa.Agent(place.socket)
    jobs = []
    try:
        jobs.append(place.mpirun(2, (5, 19, "single", "error")))
        agent.until(lambda: not jobs[0].running(), "the faulty job ends")
        text = jobs[0].text()
        if jobs[0].process.returncode == 0 or "MPI_ERR_RANK" not in text or "An error occurred in MPI_Send" not in text:
            raise fa.Failed(f"a fatal error ended with {jobs[0].process.returncode}: {text}")
        jobs[0].end()
        jobs.append(place.mpirun(2, (5, 19, "single", "handled")))
        agent.until(lambda: not jobs[1].running(), "the job that handles its errors ends")
        jobs[1].finish()
        if "the wrong send returned an error" not in jobs[1].text():
            raise fa.Failed("the program's own error handling was changed: " + jobs[1].text())
        return "fatal as without the library; MPI_ERRORS_RETURN returned"
    finally:
        for job in jobs:
            job.end()
        agent.close()


def case_agent_dies(place):
    """The agent goes while the gates are shut: they open, the program goes on, a new agent is found."""
    arguments = (0, 17)
    agent = fa.Agent(place.socket)
    job = place.mpirun(2, arguments)
    try:
        agent.until(lambda: sum(r.ready for r in agent.ranks) == 2, "all ranks are ready")
        agent.ask(fa.CLOSE, 1, fa.CLOSED)
        agent.close()
        agent.listen()
        agent.until(lambda: sum(r.ready for r in agent.ranks) == 2, "the ranks come back")
        cycle(agent, 2)
        job.stop()
        agent.until(lambda: not job.running(), "the job ends", 120)
        same_as_undisturbed(place, job, 2, arguments)
        return "gates opened, ranks came back, the same result"
    finally:
        job.end()
        agent.close()


def case_peer_fails(place):
    """A rank dies: a survivor that needed it reports it, and none writes anything more.

    One is enough: the others may wait for one that has parked, and never need the dead one themselves; and now and then
    Open MPI takes a survivor down without a word (2 runs of 40 without this library, too), which is then the one reported.
    """
    agent = fa.Agent(place.socket)
    job = place.mpirun(3, (0, 18))
    try:
        agent.until(lambda: sum(r.ready for r in agent.ranks) == 3, "all ranks are ready")
        agent.until(lambda: "round 50" in job.text(), "the program is under way")
        os.kill(job.rank_pids()[1], signal.SIGKILL)
        agent.until(lambda: len(agent.ranks) < 3 and any(r.peer_failed is not None for r in agent.ranks),
                    "a survivor reports the failure")
        agent.idle(0.5)
        before = job.text()
        agent.idle(1)
        if job.text() != before:
            raise fa.Failed("a survivor wrote on: " + job.text()[len(before):])
        reported = [r for r in agent.ranks if r.peer_failed is not None]
        alive = [r.rank for r in agent.ranks]
        if any(r.peer_failed in alive for r in reported):
            raise fa.Failed(f"reported as failed: {[r.peer_failed for r in reported]}, alive are {alive}")
        agent.ask(fa.CLOSE, 1, fa.CLOSED)
        if not all(r.last[fa.CLOSED]["busy"] for r in reported):
            raise fa.Failed("a rank whose peer has died claims to be at rest")
        return f"reported by {len(reported)} of 2 survivors, which wrote nothing more"
    finally:
        job.end()
        agent.close()


def case_table(place):
    """A function that libmpi exports and the table lacks, or the other way round, fails the build and is named."""
    pmpi = os.path.join(place.checkout, "mpi-hooks/pmpi")
    with open(os.path.join(pmpi, "calls.table"), encoding="utf-8") as table:
        rows = [row for row in table if not row.startswith("MPI_Send ")]
    with open("broken.table", "w", encoding="utf-8") as broken:
        broken.writelines(rows + ["MPI_Nonsense GATE\n", "MPI_Recv MAYBE\n"])
    sdk = os.environ.get("STILLPOINT_SDK") or os.path.join(place.checkout, "build/release/guest/sdk")
    run = subprocess.run([os.path.join(pmpi, "generate"), sdk, "broken.table", "broken.inc"], capture_output=True, text=True)
    missing = [word for word in ("MPI_Send: libmpi.so exports it", "MPI_Nonsense: broken.table has a row", "expected SYMBOL")
               if word not in run.stderr]
    if run.returncode == 0 or missing or os.path.exists("broken.inc"):
        raise fa.Failed(f"ended with {run.returncode}, without {missing}: {run.stderr}")
    return "refused, each symbol named"


CASES = {name[5:]: function for name, function in list(globals().items()) if name.startswith("case_")}


def main():
    checkout, build = sys.argv[1:3]
    wanted = sys.argv[3:] or list(CASES)
    if os.environ.get("STILLPOINT_TEST_NETNS") != "1":
        os.environ["STILLPOINT_TEST_NETNS"] = "1"
        os.execvp("unshare", ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable] +
                  sys.argv)
    for command in ("ip link set lo up", "ip link add e0 type veth peer name e1", "ip addr add 10.98.0.1/24 dev e0",
                    "ip link set e0 up", "ip link set e1 up"):
        subprocess.run(command.split(), check=True)
    seed = int(os.environ.get("STILLPOINT_SEED", random.randrange(1 << 32)))
    print(f"seed {seed} (STILLPOINT_SEED)")
    random.seed(seed)
    place = Place(checkout, build)
    failed = False
    for name in wanted:
        try:
            print(f"{name}: {CASES[name](place)}", flush=True)
        except fa.Failed as failure:
            failed = True
            print(f"{name}: FAILED: {failure}", flush=True)
    sys.exit(failed)


main()
