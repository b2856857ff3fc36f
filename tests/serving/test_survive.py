"""Streams through Serve while its processes are killed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.soak
def test_streams_go_on_while_engines_are_killed_and_a_killed_ingress_can_be_asked_again() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.serving.survive",
            "--kills",
            "4",
            "--seconds",
            "60",
            "--clients",
            "3",
        ],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    found = re.search(r"(\d+) kills, (\d+) streams: (\d+) differ, (\d+) failed", done.stdout)
    assert found, done.stdout + done.stderr
    kills, streams, differing, failed = map(int, found.groups())
    assert kills and streams >= 3 and not differing and not failed, done.stdout
    assert "asked for again, is the same" in done.stdout
