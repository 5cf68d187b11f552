"""What the benchmarks on laboratories share: the stillpoint command, waiting, figures. No program of its own."""
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STILLPOINT = os.path.join(ROOT, "build/release/bin/stillpoint")
HEAT = """
apiVersion: stillpoint/v1
kind: MpiJob
metadata: {name: bench-heat}
spec:
  guests: {count: 2, vcpus: 1, memory: 512MiB, disk: 1GiB}
  mpi:
    ranks: 4
    command: [./heat, "256", "256", "100000000", "20"]
    files: [heat]
  checkpoint: {interval: never, keep: 2}
"""
STEP = re.compile(rb"^step (\d+) ", re.M)


class Stillpoint:
    def __init__(self, directory):
        self.environment = dict(os.environ)
        self.directory = directory

    def __call__(self, *arguments, check=True):
        done = subprocess.run([STILLPOINT, *arguments, "--json"], env=self.environment, capture_output=True, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(arguments)}: exit code {done.returncode}: {done.stderr.decode().strip()}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def last_step(self, job):
        log = subprocess.run([STILLPOINT, "logs", job], env=self.environment, capture_output=True, check=True).stdout
        steps = STEP.findall(log)
        return int(steps[-1]) if steps else -1


def wait_for(condition, what, deadline=180.0):
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise RuntimeError(f"{what}: did not happen within {deadline:.0f} s")


def figure(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "all": values}


def run_heat(measure, more=""):
    """measure(stillpoint, manifest) with a laboratory's directory and jobs/examples/heat; what it started is ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    with tempfile.TemporaryDirectory(prefix="stillpoint-bench-") as work:
        shutil.copy(os.path.join(ROOT, "jobs/examples/heat/heat"), work)
        manifest = os.path.join(work, "heat.yaml")
        with open(manifest, "w", encoding="utf-8") as file:
            file.write(HEAT + more)
        stillpoint = Stillpoint(os.path.join(work, "lab"))
        try:
            return measure(stillpoint, manifest)
        finally:
            stillpoint("lab", "down", "--dir", stillpoint.directory, check=False)
