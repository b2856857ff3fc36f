"""All checks, in groups of which two run at a time, because most tests wait for processes to start.

    python -m tests.together test [rest] [--logs DIR]

`test`: style, types, layers and every test without the mark `soak`. `rest`: the tests with it. Each selection
has a pytest for the tests that need a Ray cluster (the mark `ray`), mostly one that they share. All others
are in one group, or in four of about its length. A group of few tests imports only the files whose text says
that they may have some; tests/conftest.py refuses such a test in any other file. A group starts as soon as
another has ended, so that both cores have work until the end. Every minute a line says how far each is; a
group's output is shown when it has ended, then the slowest tests of all and their numbers.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

AT_A_TIME = 2
LINT = ["make", "--no-print-directory", "lint"]
PYTEST = [sys.executable, "-m", "pytest", "--durations=20", "--durations-min=1"]
MARKS = {"test": "not soak", "rest": "soak"}
DATA = ["data_pipeline", "cluster"]
PARTS = {
    "serving, commands": ["tests", *(f"--ignore=tests/{room}" for room in ["llm", *DATA])],
    "llm/training": ["tests/llm/training"],
    "llm elsewhere": ["tests/llm", "--ignore=tests/llm/training"],
    "data_pipeline, cluster": [f"tests/{room}" for room in DATA],
}
TESTS = Path(__file__).parent
SIGNS = {
    "ray": re.compile(r"\b(ray_cluster|mark\.ray|session: \w+|endpoint: Endpoint|trains_here)\b"),
    "soak": re.compile(r"\bmark\.soak\b"),
}
"""Mark → what the text of every file has whose tests have the mark: the mark, or a fixture that brings it."""
SLOWEST = 20


def files(*marks: str) -> list[str]:
    """The files that may have tests with all of these marks."""
    return [
        str(path.relative_to(TESTS.parent))
        for path in sorted(TESTS.rglob("test_*.py"))
        if all(SIGNS[mark].search(path.read_text()) for mark in marks)
    ]


def commands(selection: str) -> dict[str, list[str]]:
    """Group → command, in an order that leaves no core idle at the end."""
    marks, soak = MARKS[selection], [] if selection == "test" else ["soak"]
    groups = {"on Ray": [*PYTEST, "-m", f"ray and {marks}", *files("ray", *soak)]}
    folders = PARTS if selection == "test" else {"without Ray": files("soak")}
    groups |= {name: [*PYTEST, "-m", f"not ray and {marks}", *only] for name, only in folders.items()}
    lint = {"style, types and layers": LINT} if selection == "test" else {}
    return {f"{selection}, {name}": command for name, command in groups.items()} | lint


@dataclass
class Group:
    """One command that runs, and the file that takes what it writes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, name: str, command: list[str], logs: Path) -> Group:
        log = logs / f"{re.sub('[^a-z]+', '-', name.lower())}.log"
        print(f"{name}: {' '.join(command)} > {log}", flush=True)
        with log.open("wb") as stream:
            return cls(name, subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT), log)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def progress(self) -> str:
        """Its name, and how many of its tests have ended."""
        lines = re.findall(r"^([.sxXFE]+)(?: +\[ *\d+%\])?$", self.output(), re.MULTILINE)
        return f"{self.name}: {sum(map(len, lines)):,} tests"


def run(groups: dict[str, list[str]], logs: Path) -> tuple[list[str], str]:
    """Run all groups, `AT_A_TIME` beside each other: the failed ones, and the output of all."""
    waiting, running = list(groups), list[Group]()
    failed, outputs, told = [], "", time.monotonic()
    while waiting or running:
        while waiting and len(running) < AT_A_TIME:
            name = waiting.pop(0)
            running.append(Group.start(name, groups[name], logs))
        for group in [one for one in running if one.process.poll() is not None]:
            running.remove(group)
            failed += [group.name] if group.process.returncode else []
            outputs += (output := group.output())
            print(f"\n-- {group.name}\n{output}", flush=True)
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(", ".join(group.progress() for group in running), flush=True)
        time.sleep(0.2)
    return failed, outputs


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
    parser.add_argument("selections", nargs="+", choices=MARKS)
    parser.add_argument("--logs", type=Path, default=Path(".venv"))
    options = parser.parse_args()
    begin, groups = time.monotonic(), dict[str, list[str]]()
    for selection in options.selections:
        groups |= commands(selection)
    failed, outputs = run(groups, options.logs)
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall groups passed")
    print(closing(outputs, time.monotonic() - begin), flush=True)
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
