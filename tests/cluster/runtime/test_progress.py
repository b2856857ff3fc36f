"""Progress that other processes report."""

from __future__ import annotations

import io
import time

import pytest
import ray
from rich.console import Console

from headwater.cluster.runtime import progress
from headwater.cluster.runtime.run_record import Progress


class SlowlyStarted(progress.Board):
    """Answers its first read after the reader has given it up."""

    def __init__(self) -> None:
        super().__init__()
        time.sleep(2)


def test_a_board_that_is_slow_to_start_is_read_again(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "Board", SlowlyStarted)
    monkeypatch.setattr(progress, "READ_SECONDS", 0.2)
    seen: list[Progress] = []
    said: list[str] = []
    screen = Console(file=io.StringIO())
    with progress.remote_bar(screen, "train", 10, "steps", said.append, seen.append) as board:
        ray.get([board.report.remote(7), board.say.remote("hello")])
        deadline = time.monotonic() + 60
        while not said and time.monotonic() < deadline:
            time.sleep(0.05)
    assert said == ["hello"]
    assert seen[-1].done == 7
