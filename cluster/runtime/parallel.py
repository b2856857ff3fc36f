"""Distributes units of work over the cluster with Ray Data. Finished units are not repeated.

A unit is one piece of a stage's input (a file, a part). Its worker writes the unit's output
files atomically and returns a small result row, which is stored last, as
`_scratch/<name>/<unit>.json`. A resumed run reads these rows and processes only the units
without one, so it never re-reads finished input.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from headwater.cluster.runtime.logs import Context
from headwater.cluster.runtime.pool import Share, map_pool
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import SCRATCH, Artifact

READERS = 16
"""Threads that read the rows of finished units. On S3 each row is one request."""


class UnitWorker(Protocol):
    """Created once per actor (load models here), called once per unit; returns a JSON-serializable dict."""

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]: ...


log = logging.getLogger("headwater")


def map_units(
    session: Session,
    output: Artifact,
    name: str,
    units: Sequence[dict[str, Any]],
    make_worker: Callable[..., UnitWorker],
    *,
    worker_args: dict[str, Any] | None = None,
    size: Callable[[dict[str, Any]], int] = lambda result: 1,
    total: int | None = None,
    unit_name: str = "files",
    share: Share | None = None,
) -> list[dict[str, Any]]:
    """Process every unit in an autoscaling pool of actors. Returns the results in the order of `units`.

    Every unit is a JSON-serializable dict whose string `unit` names it (used in file names). `size` maps a
    result to its amount of progress, `total` is the sum of all sizes, and `share` is what one actor
    reserves (default: one CPU). `cluster.runtime.pool` describes how the pool grows.
    """
    folder = f"{SCRATCH}/{name}"
    done = _finished(output, folder)
    pending = [unit for unit in units if unit["unit"] not in done]
    with session.progress(name, total if total is not None else len(units), unit_name) as shown:
        shown.resume_at(sum(size(result) for result in done.values()))
        if pending:
            arguments = {
                "make_worker": make_worker,
                "arguments": worker_args or {},
                "output": output,
                "folder": folder,
                "context": None if session.here else Context.here(),
            }
            for row in map_pool(session, pending, _Finisher, arguments, share or Share()):
                done[row["unit"]] = row["result"]
                shown.advance(size(row["result"]))
    return [done[unit["unit"]] for unit in units]


def _finished(output: Artifact, folder: str) -> dict[str, dict[str, Any]]:
    """Result rows of the units that an earlier run finished, by unit name."""
    entries = output.files(folder, ".json")
    with ThreadPoolExecutor(READERS) as readers:
        rows = readers.map(output.read_json, entries)
        return {
            entry.rsplit("/", 1)[1].removesuffix(".json"): row
            for entry, row in zip(entries, rows, strict=True)
        }


class _Finisher:
    """Wraps a unit worker: stores each result before it is returned to Ray Data."""

    def __init__(
        self,
        make_worker: Callable[..., UnitWorker],
        arguments: dict[str, Any],
        output: Artifact,
        folder: str,
        context: Context | None,
    ) -> None:
        """`context`: what a process of its own works for; None in the driver's."""
        if context:
            context.enter()
        self._work, self._output, self._folder = make_worker(**arguments), output, folder

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        result = self._work(unit)
        log.info("unit %s done", unit["unit"])
        self._output.write_json(f"{self._folder}/{unit['unit']}.json", result)
        return {"unit": unit["unit"], "result": result}
