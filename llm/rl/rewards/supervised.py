"""Started by `sandbox.run` as a program of its own, without the package: limits a child and ends all it left.

Reads the job from standard input; writes what the child printed, and after it the job's token if the tests
ran to their end.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time
import traceback

SUBREAPER, PARENT_DEATH = 36, 1  # prctl(2)
KEPT = 4000
"""Bytes of output."""


def main() -> None:
    job = json.load(sys.stdin)
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(SUBREAPER, 1)  # what outlives its parent becomes a child of this process
        prctl(PARENT_DEATH, signal.SIGKILL)
    reading, writing = os.pipe()
    proof, proven = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.close(proof)
        _run(job, writing, proven)
    os.close(writing)
    os.close(proven)
    os.set_blocking(reading, False)
    os.set_blocking(proof, False)
    printed = _printed(child, reading, time.monotonic() + job["limits"]["seconds"])
    _end_all(child)
    sys.stdout.buffer.write(printed)
    if _read(proof) == job["token"].encode():
        sys.stdout.buffer.write(b"\n" + job["token"].encode())
    sys.stdout.buffer.flush()


def _run(job: dict, printed: int, proven: int) -> None:
    """In the child: the code, then the tests, then the token."""
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(printed, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    limits = job["limits"]
    for kind, most in (
        (resource.RLIMIT_CPU, int(limits["seconds"]) + 1),
        (resource.RLIMIT_AS, limits["memory_mb"] << 20),
        (resource.RLIMIT_FSIZE, limits["file_mb"] << 20),
        (resource.RLIMIT_NOFILE, limits["files"]),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # macOS limits no address space
            resource.setrlimit(kind, (most, most))
    passed = False
    try:
        names: dict[str, object] = {"__name__": "__main__"}
        exec(compile(job["code"], "answer", "exec"), names)  # noqa: S102  what this file is for
        exec(compile(job["tests"], "tests", "exec"), names)  # noqa: S102
        passed = True
    except BaseException:  # noqa: BLE001  SystemExit does not pass, either
        traceback.print_exc()
    sys.stdout.flush()
    if passed:
        os.write(proven, job["token"].encode())
    os._exit(0)


def _printed(child: int, reading: int, deadline: float) -> bytes:
    """The last of what is written until the child has ended, or the deadline."""
    found, ended = b"", False
    while not ended and time.monotonic() < deadline:
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        while piece := _read(reading):
            found = (found + piece)[-KEPT:]
        time.sleep(0 if ended else 0.005)
    return found


def _read(descriptor: int) -> bytes:
    """What is there; empty if nothing is."""
    try:
        return os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return b""


def _end_all(child: int) -> None:
    """Kill the child and all that it started, until none is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    while True:
        # The first process of a namespace reaches all others of it with -1.
        for left in [-1] if os.getpid() == 1 else _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    """The processes that this one has to wait for, among them those that lost their parent (Linux)."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as listed:  # noqa: PTH123
            return [int(word) for word in listed.read().split()]
    except OSError:
        return []


if __name__ == "__main__":
    main()
