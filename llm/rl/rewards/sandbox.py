"""Run Python that a model wrote, with tests after it, in a process with limits.

The code has CPU seconds, memory, file size and open files limited, an empty environment, an empty folder to
work in, no installed packages, and no network where `unshare` is permitted. Time is limited by the wall
clock. On Linux everything that it started ends with it, whatever session it put itself into. It can read
files that its user can read, and code that searches its interpreter for the proof of having passed can find
it: run rollout workers in a container, and look at answers whose score rises.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

OUTPUT = 2000
"""Characters of output that are kept."""
GRACE_SECONDS = 5.0
"""After the time limit, for the supervisor to end what it started."""


@dataclass(frozen=True)
class Limits:
    seconds: float = 5.0
    """Of the wall clock; CPU seconds are the next whole number."""
    memory_mb: int = 512
    """Address space of a process."""
    file_mb: int = 1
    """Largest file that can be written."""
    files: int = 32
    """Open files of a process."""


@dataclass(frozen=True)
class Outcome:
    passed: bool
    """The tests ran to their end."""
    output: str
    """The end of what was printed, and of the error."""


def run(code: str, tests: str, limits: Limits = Limits()) -> Outcome:
    """Run code and then tests, in one namespace. Raises OSError if no process can be started."""
    token = secrets.token_hex(16)
    job = {"code": code, "tests": tests, "token": token, "limits": asdict(limits)}
    with tempfile.TemporaryDirectory(prefix="headwater-sandbox-") as folder:
        process = subprocess.Popen(
            [*_apart(), sys.executable, "-I", "-S", "-B", str(Path(__file__).with_name("supervised.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder, "LANG": "C.UTF-8"},
            start_new_session=True,
        )
        try:
            told, _ = process.communicate(json.dumps(job).encode(), limits.seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            told = b""
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    printed = told.decode(errors="replace")
    return Outcome(printed.endswith(f"\n{token}"), printed.removesuffix(f"\n{token}")[-OUTPUT:])


@functools.cache
def _apart() -> tuple[str, ...]:
    """The command before another that gives it no network and processes of its own; empty where that is not
    permitted."""
    command = ("unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--")
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return ()
    done = subprocess.run([*command, "true"], capture_output=True, check=False)
    return () if done.returncode else command
