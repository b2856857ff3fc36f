"""Attempts of runs in a store, as JSON: state, stages and last checkpoint."""

from __future__ import annotations

import time
from typing import Any

from headwater.cluster.runtime.run_record import Record, read_record
from headwater.cluster.storage.artifact import SCRATCH, Artifact
from headwater.cluster.storage.filesystem import list_files
from headwater.cluster.storage.store import Store


def attempts(store: Store) -> list[Record]:
    """The records of all attempts of all runs, oldest first."""
    found = [read_record(store, run, each) for run, numbers in store.runs().items() for each in numbers]
    return sorted((record for record in found if record), key=lambda record: record.started)


def run_json(record: Record) -> dict[str, Any]:
    """The record as `status --json` prints it: its own fields, the state as shown and the last checkpoint."""
    written, units = last_saved(record)
    return record.model_dump() | {
        "state": record.shown_state(time.time()),
        "stages_expected": stages_expected(record),
        "last_checkpoint": written,
        "units_done": units,
    }


def stages_expected(record: Record) -> int:
    """Number of stages that the run will have gone through at its end; at least those begun."""
    return max(record.expected, len(record.stages) + (record.state != "finished"))


def last_saved(record: Record) -> tuple[float | None, int]:
    """When the running stage's newest training checkpoint was written, and its number of finished units."""
    if not record.artifact:
        return None, 0
    newest, units = None, 0
    for info in list_files(Artifact(record.artifact).path(SCRATCH)):
        in_checkpoint = any(part.startswith("checkpoint_") for part in info.path.split("/"))
        if in_checkpoint and info.path.endswith("/whole.json"):
            newest = max(newest or 0.0, (info.mtime_ns or 0) / 1e9)
        elif info.path.endswith(".json") and "/train/" not in info.path:
            units += 1
    return newest, units
