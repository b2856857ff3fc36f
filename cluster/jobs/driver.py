"""Entrypoint of a job: checks its node, runs the driver, and restarts the driver if it is killed.

    python -m headwater.cluster.jobs.driver --restarts 3 --need-env NAME --packages packages.json -- COMMAND…

A driver that exits, with success or failure, is not restarted. A driver killed by a signal that no user
sent (the kernel's out-of-memory killer, a crash) is restarted and resumes from the store.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.versions import differences, installed

ASKED_TO_END = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
RESTART_DELAY_SECONDS = 3.0


def supervise(command: Sequence[str], restarts: int, delay: float = RESTART_DELAY_SECONDS) -> int:
    """Run `command` until it exits, is asked to stop, or has been killed `restarts` + 1 times.

    Forwards SIGTERM, SIGINT and SIGHUP to it. Returns a shell exit code.
    """
    child: subprocess.Popen[bytes] | None = None
    asked = False

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        if child is not None and child.poll() is None:
            child.send_signal(number)

    for number in ASKED_TO_END:
        signal.signal(number, pass_on)
    for attempt in range(restarts + 1):
        child = subprocess.Popen(command)
        code = child.wait()
        if code >= 0:
            return code
        killed_by = signal.Signals(-code)
        if asked or killed_by in ASKED_TO_END or attempt == restarts:
            break
        print(  # noqa: T201 - the job's log is this process's output
            f"the driver was killed by {killed_by.name}; restarting it ({attempt + 1} of {restarts})",
            flush=True,
        )
        time.sleep(delay)
        if asked:
            break
    return 128 - code


def check_environment(names: Sequence[str], environment: Mapping[str, str]) -> None:
    """Raise HeadwaterError unless all named secrets are set: only names are submitted, never values."""
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise HeadwaterError(
            f"{', '.join(missing)} is not set on this node",
            where="--secret",
            fix="set it in the environment of the cluster's nodes (in Kubernetes: a Secret reference)",
        )


def check_packages(wanted: Mapping[str, str]) -> None:
    """Raise HeadwaterError unless this node has the package versions that the run was submitted with."""
    different = differences(installed(wanted), wanted)
    if different:
        raise HeadwaterError(
            f"this node has {'; '.join(different)}",
            where=sys.executable,
            fix="use an image made from constraints.txt, or submit with --install",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="jobs.driver", description=__doc__.splitlines()[0])
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--need-env", action="append", default=[])
    parser.add_argument("--packages", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    try:
        check_environment(given.need_env, os.environ)
        if given.packages:
            check_packages(json.loads(given.packages.read_text()))
    except HeadwaterError as error:
        print(f"error {error}", flush=True)  # noqa: T201 - the job's log is this process's output
        return 1
    return supervise([sys.executable if command[0] == "python" else command[0], *command[1:]], given.restarts)


if __name__ == "__main__":
    sys.exit(main())
