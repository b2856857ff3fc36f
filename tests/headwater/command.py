"""`headwater …` in this process: starting another takes a second, which few tests are about."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO
from unittest import mock

from rich.console import Console

from headwater import cli
from tests.cluster.heads import ROOT

HERE = ("--max-workers", "0")
"""Pools work in this process: for what a command does, not for how it is spread."""


def headwater(*arguments: object, **environment: str) -> tuple[int, str]:
    """Exit code and output of the command as its entry point gives them. A run uses this process's Ray."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as screen:
        code = 0
        with (
            mock.patch.object(sys, "argv", ["headwater", *map(str, arguments)]),
            mock.patch.dict(os.environ, environment),
            _shown_on(screen),
        ):
            try:
                cli.main()
            except SystemExit as ended:
                code = int(ended.code or 0)
        screen.seek(0)
        return code, screen.read()


def in_a_process(*arguments: object, cwd: Path = ROOT, **environment: str) -> tuple[int, str]:
    """The same in a process of its own, where an import or the start of Python is the point."""
    done = subprocess.run(
        [sys.executable, "-m", "headwater", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


SEVERAL = """
import json, runpy, sys
import headwater

print(headwater.__file__, end="", flush=True)
for arguments in json.loads(sys.argv[1]):
    print(end="\\0", flush=True)
    sys.argv, code = ["headwater", *arguments], 0
    try:
        runpy.run_module("headwater", run_name="__main__")
    except SystemExit as ended:
        code = int(ended.code or 0)
    print(end=f"\\0{code}", flush=True)
"""


def several_in_a_process(
    *commands: Sequence[object], cwd: Path, **environment: str
) -> tuple[str, list[tuple[int, str]]]:
    """Several commands one after another in one process of their own, since imports take most of the time of
    each: where their package lies, and the exit code and output of each."""
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, json.dumps([[*map(str, command)] for command in commands])],
        cwd=cwd,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "200"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    place, *said = done.stdout.split("\0")
    return place, [(int(code), output) for output, code in zip(said[::2], said[1::2], strict=True)]


@contextlib.contextmanager
def _shown_on(screen: TextIO) -> Iterator[None]:
    """What is printed, and what the one console of all commands shows; a session takes descriptor 1."""
    console, kept = Console(file=screen, width=200), os.dup(1)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, kept)
        stack.callback(os.dup2, kept, 1)
        os.dup2(screen.fileno(), 1)
        stack.enter_context(contextlib.redirect_stdout(screen))
        stack.enter_context(contextlib.redirect_stderr(screen))
        for name, module in list(sys.modules.items()):
            if name.startswith("headwater.") and hasattr(module, "console"):
                stack.enter_context(mock.patch.object(module, "console", console))
        yield
        screen.flush()
