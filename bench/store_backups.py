"""The chunk store against restic and borg on the same files: each a process that takes up one image after the other,
encrypted, with its own defaults, on one core, from a tmpfs into a tmpfs. For bench/store-real."""
import os
import shutil
import statistics
import subprocess
import tempfile
import time


def run_timed(command, core, environment=None, stdin=None):
    """Seconds of wall and of processor time."""
    begin = time.monotonic()
    with open(stdin or os.devnull, "rb") as file, tempfile.TemporaryFile() as words:
        process = subprocess.Popen(["taskset", "-c", str(core), *command], env={**os.environ, **(environment or {})},
                                   stdin=file, stdout=subprocess.DEVNULL, stderr=words)
        _, status, usage = os.wait4(process.pid, 0)  # finer than os.times()
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - begin
        if process.returncode != 0:
            words.seek(0)
            raise RuntimeError(f"{' '.join(command)}: {words.read().decode().strip()}")
    return wall, usage.ru_utime + usage.ru_stime


def size_of(directory):
    return sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(directory) for name in names)


class Stillpoint:
    def __init__(self, directory, core, tool):
        self.core, self.tool = core, tool
        self.directory, self.keys = os.path.join(directory, "store"), os.path.join(directory, "store.keys")

    def take_up(self, path, number):
        return run_timed([self.tool, "take-up", self.directory, self.keys, f"j1/e{number}/guest-0.ram"], self.core,
                         stdin=path)


class Restic:
    def __init__(self, directory, core, _tool):
        self.core, self.directory = core, os.path.join(directory, "repository")
        self.environment = {"RESTIC_PASSWORD": "bench", "RESTIC_REPOSITORY": self.directory, "GOMAXPROCS": "1",
                            "RESTIC_CACHE_DIR": os.path.join(directory, "cache")}
        run_timed(["restic", "init", "--repository-version", "2"], core, self.environment)

    def take_up(self, path, _number):
        return run_timed(["restic", "backup", "--quiet", "--force", path], self.core, self.environment)


class Borg:
    options = ()

    def __init__(self, directory, core, _tool):
        self.core, self.directory = core, os.path.join(directory, "repository")
        self.environment = {"BORG_PASSPHRASE": "bench", "BORG_BASE_DIR": directory,
                            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
        run_timed(["borg", "init", "--encryption", "repokey", self.directory], core, self.environment)

    def take_up(self, path, number):
        return run_timed(["borg", "create", "--files-cache", "disabled", *self.options,
                          f"{self.directory}::e{number}", path], self.core, self.environment)


class BorgZstd(Borg):
    options = ("--compression", "zstd,1")


TOOLS = {"stillpoint": (Stillpoint, None), "restic": (Restic, "restic"), "borg": (Borg, "borg"),
         "borg-zstd-1": (BorgZstd, "borg")}


def one_round(kind, tool, images, tmpfs, core):
    directory = os.path.join(tmpfs, "backup")
    os.mkdir(directory, 0o700)
    try:
        store = kind(directory, core, tool)
        seconds, stored = [], []
        for number, image in enumerate(images):
            before = size_of(store.directory) if os.path.isdir(store.directory) else 0
            seconds.append(store.take_up(image, number))
            stored.append(size_of(store.directory) - before)
        # What a process costs that takes up next to nothing: for restic most of it is making the key from the password.
        with open(os.path.join(directory, "small"), "wb") as small:
            small.write(b"nothing\n")
        return seconds, stored, store.take_up(small.name, len(images))
    finally:
        shutil.rmtree(directory)


def spread(values):
    return {"median": round(statistics.median(values), 4), "least": round(min(values), 4), "most": round(max(values), 4)}


def figures(rounds, images):
    megabytes = [os.path.getsize(path) / 1e6 for path in images]
    cpu = [sum(cpu for _, cpu in seconds) for seconds, _, _ in rounds]
    return {
        "mbPerSecond": spread([sum(megabytes) / sum(wall for wall, _ in seconds) for seconds, _, _ in rounds]),
        "mbPerCpuSecond": spread([sum(megabytes) / total for total in cpu]),
        "mbPerCpuSecondByImage": [spread([mb / seconds[i][1] for seconds, _, _ in rounds])
                                  for i, mb in enumerate(megabytes)],
        "cpuSecondsOfNothing": spread([nothing[1] for _, _, nothing in rounds]),
        "storedBytes": rounds[-1][1],
        "storedBytesOfAll": sum(rounds[-1][1]),
    }


def ratio(all_rounds, name, less_nothing):
    """How many times our speed is theirs, round for round; less_nothing: without what a process costs them anyway."""
    values = []
    for ours, theirs in zip(all_rounds["stillpoint"], all_rounds[name]):
        nothing = theirs[2][1] * len(theirs[0]) if less_nothing else 0
        values.append((sum(cpu for _, cpu in theirs[0]) - nothing) / sum(cpu for _, cpu in ours[0]))
    return spread(values)


def version_of(program):
    command = [program, "version" if program == "restic" else "--version"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split("\n")[0]


def compare(tool, images, tmpfs, core, rounds):
    """The same images into each, in turns. Processor time is what the ratios are of: all are made to use one core."""
    there = {name: kind for name, (kind, program) in TOOLS.items() if program is None or shutil.which(program)}
    all_rounds = {name: [] for name in there}
    for _ in range(rounds):
        for name, kind in there.items():
            all_rounds[name].append(one_round(kind, tool, images, tmpfs, core))
    document = {name: figures(all_rounds[name], images) for name in there}
    for name in there:
        if name == "stillpoint":
            continue
        document[name]["version"] = version_of(TOOLS[name][1])
        document[name]["ourSpeedToTheirs"] = ratio(all_rounds, name, False)
        document[name]["ourSpeedToTheirsWithoutStart"] = ratio(all_rounds, name, True)
    document["missing"] = sorted(set(TOOLS) - set(there))
    return document
