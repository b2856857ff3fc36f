"""Goodput: the share of the time since a stage began in which it made steps that count.

What does not count: starts and restarts, steps that were lost with a worker and made again, refused updates,
evaluations, waiting for checkpoints, and the time for which the run was stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

from headwater.cluster.storage.artifact import SCRATCH, Artifact

BEGAN = f"{SCRATCH}/began.json"
"""When the stage began, in seconds since 1970, and its first step; kept until the stage ends."""


def note_beginning(output: Artifact, step: int) -> None:
    """Write that the stage begins now with a step, unless it began before."""
    if not output.exists(BEGAN):
        output.write_json(BEGAN, {"time": time.time(), "step": step})


class Goodput:
    """Rank 0's account."""

    def __init__(self, output: Artifact, history: Sequence[Mapping[str, float]]) -> None:
        """`history`: the records that training goes on from, those of another artifact among them."""
        note_beginning(output, len(history))
        began = output.read_json(BEGAN)
        self._began, first = float(began["time"]), int(began["step"])
        self._useful = sum(_useful(record) for record in history if record["step"] >= first)

    def add(self, record: Mapping[str, float]) -> float:
        """The goodput up to a step, with its record; 1 at most, should the hosts' clocks differ."""
        self._useful += _useful(record)
        return min(1.0, self._useful / max(1e-9, time.time() - self._began))


def _useful(record: Mapping[str, float]) -> float:
    counts = "skipped" not in record and math.isfinite(record["loss"])
    return record.get("seconds", 0.0) if counts else 0.0
