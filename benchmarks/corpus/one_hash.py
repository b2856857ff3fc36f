"""Runs with different numbers of workers and a killed process each: are the artifacts identical bytes?

    python -m benchmarks.corpus.one_hash RECIPE [--runs 20] [--seed 0] [--until tokenize]

Each run has its own store and 1, 2 or 4 workers, on a Ray head with four CPUs. At a random time, a random
worker or the driver is killed with SIGKILL; a killed driver is started again. One SHA-256 covers every file
of every artifact except the manifests, which have times and versions. If a run differs from the first, its
differing files are printed and its store is kept.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import random
import shutil
import tempfile
import time
from pathlib import Path

import psutil

from tests.cluster.heads import Head, head

KILLED_WITHIN = 0.9
"""A process is killed within this share of an undisturbed run's time."""


def file_hashes(store: Path) -> dict[str, str]:
    found = {}
    for stage in ("acquire", "clean", "tokenizer", "tokenize"):
        for path in sorted((store / stage).rglob("*")):
            if path.is_file() and path.name != "manifest.json":
                found[str(path.relative_to(store))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def differences(files: dict[str, str], first: dict[str, str]) -> list[str]:
    kinds = {
        "missing": first.keys() - files.keys(),
        "not in the first run": files.keys() - first.keys(),
        "different bytes": {name for name in first.keys() & files.keys() if first[name] != files[name]},
    }
    return [f"{kind}: {name}" for kind, names in kinds.items() for name in sorted(names)]


def workers(ray: Head) -> list[psutil.Process]:
    """Processes of the pool's worker actors."""
    below = psutil.Process(ray.process.pid).children(recursive=True)
    return [process for process in below if "MapWorker" in "".join(_title(process))]


def _title(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def one_run(ray: Head, command: list[str], victim: str, after: float) -> tuple[str, float]:
    """What was killed (or "nothing"), and the run's seconds."""
    started = time.monotonic()
    killed = "nothing"
    while True:
        driver = ray.command(*command)
        while driver.poll() is None:
            time.sleep(0.1)
            if killed != "nothing" or time.monotonic() - started < after:
                continue
            found = workers(ray)
            if victim == "worker" and found:
                random.choice(found).kill()
            elif victim == "driver":
                driver.kill()
            else:
                continue  # no worker yet: try again
            killed = victim
        output = driver.stdout.read() if driver.stdout else ""
        if driver.returncode == 0:
            return killed, time.monotonic() - started
        if driver.returncode > 0 or killed != "driver":
            raise SystemExit(
                f"headwater {' '.join(command)} ended with {driver.returncode}:\n{output[-2000:]}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("recipe")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--until", default="tokenize")
    options = parser.parse_args()
    random.seed(options.seed)
    hashes: collections.Counter[str] = collections.Counter()
    undisturbed, first = 0.0, dict[str, str]()
    with head(cpus=4) as ray:
        for number in range(options.runs + 1):
            folder = Path(tempfile.mkdtemp(prefix="one-hash-"))
            count, victim = random.choice([1, 2, 4]), random.choice(["worker", "driver"])
            after = random.uniform(0, KILLED_WITHIN) * undisturbed if number else float("inf")
            command = ["run", options.recipe, "--until", options.until, "--address", ray.gcs]
            command += ["--set", f"store={folder}", "--max-workers", str(count)]
            killed, seconds = one_run(ray, command, victim, after)
            undisturbed = undisturbed or seconds
            files = file_hashes(folder)
            first = first or files
            found = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]
            hashes[found] += 1
            print(
                f"{number:2}  {count} workers  {killed} killed after {min(after, seconds):5.1f} s  "
                f"{seconds:5.1f} s  {found}",
                flush=True,
            )
            if found_differences := differences(files, first):
                print("\n".join([f"    {folder}", *(f"    {line}" for line in found_differences[:20])]))
            else:
                shutil.rmtree(folder)
    print(f"{options.runs} runs after the first, {len(hashes)} hash{'es' * (len(hashes) > 1)}")
    raise SystemExit(len(hashes) > 1)


if __name__ == "__main__":
    main()
