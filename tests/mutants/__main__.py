"""Small mistakes, each put into a copy of the source: does a nearby test see it?

    python -m tests.mutants [--list] [--only NAME …] [--from N] [--to N] [--timeout SECONDS]

A mutant is a piece of source that stands in one place only, and what takes its place; so it outlives moves of
files. Its tests are named by their file, wherever that lies below tests/. First all of these tests must pass
on the unchanged copy. Exits with 1 when a mutant survives, with 2 when one can no longer be made.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from tests.mutants import MUTANTS
from tests.mutants.mutant import ROOT, SOURCES, Mutant, nearest, place_of

NEEDED = (*SOURCES, "tests", "recipes")
LIBRARIES = ("pytest", "hypothesis", "torch", "transformers", "ray", "numba", "pyarrow.parquet")
"""Imported once for all runs: most of the time of the nearest tests."""
BASELINE = 6
"""Times the limit of one mutant that the first run, of all tests, may take."""


def ended(root: Path, tests: Iterable[str], timeout: float) -> tuple[str, str]:
    """How the tests ended in a copy (passed, failed, timed out, broken), and what pytest printed.

    In a fork of this process, which has the large libraries already and nothing of the project.
    """
    log, deadline = root / "pytest.log", time.monotonic() + timeout
    child = os.fork()
    if not child:
        _run_and_exit(root, list(tests), log)
    how = "timed out"
    try:
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                how = {0: "passed", 1: "failed"}.get(os.waitstatus_to_exitcode(status), "broken")
                break
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):  # what it started, and after Ctrl-C itself
            os.killpg(child, signal.SIGKILL)
    return how, log.read_text(errors="replace")


def _run_and_exit(root: Path, tests: list[str], log: Path) -> NoReturn:
    os.setpgid(0, 0)
    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(root)
    os.environ |= {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True  # a file of the same size and second would be taken for the one before
    sys.path[:] = [str(root), *(path for path in sys.path if path not in ("", str(ROOT)))]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    code = 2
    try:
        code = int(importlib.import_module("pytest").main(["-x", "-p", "no:cacheprovider", *tests]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def chosen(options: argparse.Namespace) -> list[tuple[int, Mutant]]:
    numbered = list(enumerate(MUTANTS, 1))[options.first - 1 : options.last]
    if unknown := set(options.only).difference(mutant.name for mutant in MUTANTS):
        raise LookupError(f"no mutant is called {', '.join(sorted(unknown))}")
    return [(n, mutant) for n, mutant in numbered if not options.only or mutant.name in options.only]


def run(options: argparse.Namespace) -> int:
    wanted = chosen(options)
    for library in LIBRARIES:
        importlib.import_module(library)
    with tempfile.TemporaryDirectory(prefix="headwater-mutants-") as folder:
        root = Path(folder)
        for name in NEEDED:
            if (ROOT / name).is_symlink():
                (root / name).symlink_to((ROOT / name).readlink())
            elif (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, root / name, symlinks=True)
        shutil.copy(ROOT / "pyproject.toml", root)
        made = [(n, m, place_of(m.old, root), [nearest(t, root) for t in m.tests]) for n, m in wanted]
        all_tests = sorted({test for *_, tests in made for test in tests})
        print(f"{len(all_tests)} nearest tests on the unchanged source …", flush=True)
        end, output = ended(root, all_tests, BASELINE * options.timeout)
        if end != "passed":
            print(f"{output}\n{end}: there is nothing to tell before they pass")
            return 2
        survivors = []
        for number, mutant, path, tests in made:
            started, source = time.monotonic(), path.read_text()
            path.write_text(source.replace(mutant.old, mutant.new))
            end, output = ended(root, tests, options.timeout)
            path.write_text(source)
            verdict = "killed" if end == "failed" else f"SURVIVED ({end})"
            by = re.search(r"^(?:FAILED|ERROR) (?:\S*/)?(\S+)", output, re.MULTILINE)
            seconds = time.monotonic() - started
            killer = f" by {by[1]}" if by and end == "failed" else ""
            print(
                f"[{number:2}/{len(MUTANTS)}] {mutant.name}: {verdict}{killer}, {seconds:.0f} s", flush=True
            )
            if end != "failed":
                survivors.append(mutant.name)
    print(f"{len(made) - len(survivors)} of {len(made)} killed", *survivors)
    return int(bool(survivors))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print their names and places")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--from", type=int, default=1, dest="first", metavar="N")
    parser.add_argument("--to", type=int, default=len(MUTANTS), dest="last", metavar="N")
    parser.add_argument("--timeout", type=float, default=300, help="seconds that the tests of one may take")
    options = parser.parse_args()
    try:
        if options.list:
            for number, mutant in chosen(options):
                print(f"{number:2} {mutant.name}: {place_of(mutant.old, ROOT).relative_to(ROOT)}")
            return
        raise SystemExit(run(options))
    except LookupError as error:
        print(error)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
