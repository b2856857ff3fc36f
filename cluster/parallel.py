"""Units of work spread over the cluster by Ray Data, each finished once and found finished again.

A unit is one piece of a stage's input (a file, a part). Its worker writes the unit's output
files atomically and returns a small result row; the row is stored last, as
`_scratch/<name>/<unit>.json`. A run that was cut off reads those rows back and works only on
the units that have none, so resuming never re-reads finished input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from cluster.artifact import SCRATCH, Artifact
from cluster.session import Session


class UnitWorker(Protocol):
    """Made once per actor (load models here), called once per unit; returns JSON-ready results."""

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]: ...


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
    cpus_per_worker: float = 1.0,
) -> list[dict[str, Any]]:
    """Run every unit through an autoscaling pool of actors; results come in the units' order.

    Every unit is a dict with a string `unit` that names it (used in file names). `size` says how
    much progress a result stands for, `total` the sum of all sizes. The pool grows from one actor
    to as many as the units and the cluster's CPUs allow.
    """
    import ray

    session.ray()
    folder = f"{SCRATCH}/{name}"
    done = {
        entry.rsplit("/", 1)[1].removesuffix(".json"): output.read_json(entry)
        for entry in output.files(folder, ".json")
    }
    pending = [unit for unit in units if unit["unit"] not in done]
    with session.progress(name, total if total is not None else len(units), unit_name) as shown:
        shown.resume_at(sum(size(result) for result in done.values()))
        if pending:
            limit = max(1, min(len(pending), int(session.cpus() / cpus_per_worker)))
            results = ray.data.from_items(
                [{"payload": unit} for unit in pending], override_num_blocks=len(pending)
            ).map(
                _Finisher,  # type: ignore[arg-type]  # a callable class: Ray Data makes one per actor
                fn_constructor_args=(make_worker, worker_args or {}, output, folder),
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=limit, initial_size=limit),
                num_cpus=cpus_per_worker,
            )
            for row in results.iter_rows():
                done[row["unit"]] = output.read_json(f"{folder}/{row['unit']}.json")
                shown.advance(size(done[row["unit"]]))
    return [done[unit["unit"]] for unit in units]


class _Finisher:
    """Wraps a unit worker: its result is on the store before Ray Data hears of it."""

    def __init__(
        self, make_worker: Callable[..., UnitWorker], arguments: dict[str, Any], output: Artifact, folder: str
    ) -> None:
        self._work, self._output, self._folder = make_worker(**arguments), output, folder

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        unit = row["payload"]
        self._output.write_json(f"{self._folder}/{unit['unit']}.json", self._work(unit))
        return {"unit": unit["unit"]}
