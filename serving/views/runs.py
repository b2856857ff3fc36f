"""Runs of a store: attempts with their stages, the curves of a training stage, the report card."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from headwater.cluster.runtime.attempts import attempts, run_json
from headwater.cluster.runtime.run_record import Record, read_record
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store

REPORT = "report/report.md"
POINTS = 300
"""Points of a curve; longer histories are thinned out, the first and the last step kept."""


def all_runs(store: Store) -> list[dict[str, Any]]:
    """Every attempt of every run, the latest first."""
    now = time.time()
    return [_summary(record, now) for record in reversed(attempts(store))]


def one_run(store: Store, run: str, attempt: int) -> dict[str, Any] | None:
    """One attempt: its record, and of each stage whether it has curves; None if there is no such attempt.

    `report` is the text of its report card, empty before the stage `evaluate`.
    """
    record = read_record(store, run, attempt)
    if record is None:
        return None
    stages = [done.model_dump() | {"state": "finished"} for done in record.stages]
    if record.state != "finished" and record.stage:
        key = record.artifact.rstrip("/").rpartition("/")[2]
        shown = record.shown_state(time.time())
        stages.append({"stage": record.stage, "key": key, "found": False, "seconds": None, "state": shown})
    for stage in stages:
        stage["curves"] = _history_of(store, stage["stage"], stage["key"]) is not None
    report = ""
    for done in record.stages:
        artifact = store.artifact(done.stage, done.key)
        if done.stage == "evaluate" and artifact.exists(REPORT):
            report = artifact.read_bytes(REPORT).decode()
    return run_json(record) | _summary(record, time.time()) | {"stages": stages, "report": report}


def curves(store: Store, stage: str, key: str) -> dict[str, Any] | None:
    """`steps` so far and `series`: name → [step, value] pairs; None for a stage without a history."""
    artifact = _history_of(store, stage, key)
    if artifact is None:
        return None
    from headwater.llm.training.telemetry.records import read_history

    history = read_history(artifact)
    return {"stage": stage, "key": key, "steps": len(history), "series": series(history)}


def series(history: Sequence[Mapping[str, float]], points: int = POINTS) -> dict[str, list[list[float]]]:
    """Name → at most `points` pairs [step, value] of a training history; values that are not finite are
    left out, as are names without two values."""
    found: dict[str, list[list[float]]] = {}
    for number, record in enumerate(history, start=1):
        step = record.get("step", number)
        for name, value in record.items():
            if name != "step" and math.isfinite(value):
                found.setdefault(name, []).append([step, value])
    return {name: _thinned(pairs, points) for name, pairs in found.items() if len(pairs) > 1}


def _thinned(pairs: list[list[float]], points: int) -> list[list[float]]:
    if len(pairs) <= points:
        return pairs
    last = len(pairs) - 1
    return [pairs[round(i * last / (points - 1))] for i in range(points)]


def _history_of(store: Store, stage: str, key: str) -> Artifact | None:
    from headwater.llm.training.telemetry.records import HISTORY

    artifact = store.artifact(stage, key)
    return artifact if artifact.exists(HISTORY) else None


def _summary(record: Record, now: float) -> dict[str, Any]:
    return {
        "run": record.recipe,
        "attempt": record.attempt,
        "state": record.shown_state(now),
        "started": record.started,
        "seconds": record.heartbeat - record.started,
        "stage": record.stage,
        "done": len(record.stages),
        "expected": max(record.expected, len(record.stages)),
        "error": record.error,
        "commit": record.commit,
    }
