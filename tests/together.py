"""All checks, in groups that run in parallel, because most tests wait for processes to start.

    python -m tests.together test [rest] [--logs DIR]

`test`: style, types, layers and every test without the mark `soak`. `rest`: the tests with it. Two pytests
run beside each other, since most tests wait for processes to start: the tests that need a Ray cluster (the
mark `ray`), mostly one that they share, and all others. The last group's output is shown as it comes,
the others' when they have ended, then the slowest tests of all and their numbers.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import re
import subprocess
import sys
import time
from pathlib import Path

LINT = ["make", "--no-print-directory", "lint"]
PYTEST = [sys.executable, "-m", "pytest", "--durations=20", "--durations-min=1"]
SELECTIONS = {"test": "not soak", "rest": "soak"}
SLOWEST = 20


def commands(selection: str) -> dict[str, list[str]]:
    """Group → command."""
    marks = SELECTIONS[selection]
    return ({"style, types and layers": LINT} if selection == "test" else {}) | {
        f"{selection}, on Ray": [*PYTEST, "-m", f"ray and {marks}"],
        f"{selection}, without Ray": [*PYTEST, "-m", f"not ray and {marks}"],
    }


def run(selection: str, logs: Path) -> tuple[list[str], str]:
    """Run a selection's groups beside each other: the failed ones, and the output of all."""
    groups = commands(selection)
    processes, outputs = {}, ""
    for name, command in groups.items():
        log = logs / f"{name.replace(' ', '-').replace(',', '')}.log"
        with log.open("wb") as stream:
            processes[name] = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT), log
        print(f"{name}: {log}", flush=True)
    for name, (process, log) in reversed(processes.items()):
        print(f"\n-- {name}: {' '.join(groups[name])}", flush=True)
        with log.open(errors="replace") as stream:
            ended = False
            while not ended:
                ended = process.poll() is not None  # before reading: what it wrote last is read as well
                outputs += (written := stream.read())
                print(written, end="", flush=True)
                time.sleep(0 if ended else 0.2)
    return [name for name, (process, _) in processes.items() if process.returncode], outputs


def closing(outputs: str, seconds: float) -> str:
    """The slowest tests and how many passed, as pytest says it, over all groups."""
    took = re.findall(r"^([0-9.]+)s (call|setup|teardown) +(\S.*)$", outputs, re.MULTILINE)
    slowest = sorted(((float(length), phase, test) for length, phase, test in took), reverse=True)[:SLOWEST]
    counts: collections.Counter[str] = collections.Counter()
    for line in re.findall(r"^(?:=+ )?(\d+ [a-z]+(?:, \d+ [a-z]+)*) in [0-9.]+s", outputs, re.MULTILINE):
        for number, outcome in re.findall(r"(\d+) ([a-z]+)", line):
            counts[outcome] += int(number)
    del counts["deselected"]  # each group leaves out the others' tests
    numbers = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    lines = [f"{length:.2f}s {phase:<8} {test}" for length, phase, test in slowest]
    ending = f"{numbers} in {seconds:.2f}s ({datetime.timedelta(seconds=int(seconds))})"
    return "\n".join([f"slowest {SLOWEST} of all:", *lines, ending])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("selections", nargs="+", choices=SELECTIONS)
    parser.add_argument("--logs", type=Path, default=Path(".venv"))
    options = parser.parse_args()
    begin, failed, outputs = time.monotonic(), [], ""
    for selection in options.selections:
        groups, output = run(selection, options.logs)
        failed, outputs = failed + groups, outputs + output
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall groups passed")
    print(closing(outputs, time.monotonic() - begin), flush=True)
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
