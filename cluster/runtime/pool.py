"""Actor pools on Ray Data: their size, and an iterator of results.

On an embedded cluster a pool uses the resources there are. A cluster joined by its address may
autoscale. Ray's autoscaler counts pending actors as demand, so the pool starts a few more actors
than fit, and a few more whenever those are busy. Nodes are added until the backlog is covered or
the autoscaler's limit is reached; each actor starts when its node is ready. Once all rows are
handed out, idle actors end, and the autoscaler removes their nodes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headwater.cluster.errors import HeadwaterError, readable
from headwater.cluster.runtime.session import Session

AHEAD = 4
"""Pending actors started at a time. A larger number adds nodes sooner, but a pending actor that is not needed
has a cost: restarts of dead actors queue behind it, and it starts for nothing when the first actors end (Ray
cancels no actor before its first answer)."""


@dataclass(frozen=True)
class Share:
    """Resources that Ray reserves for one actor of a pool."""

    cpus: float = 1.0
    gpus: float = 0.0

    def fitting(self, cpus: float, gpus: float) -> int:
        """Number of actors that fit in `cpus` CPUs and `gpus` GPUs."""
        pairs = ((cpus, self.cpus), (gpus, self.gpus))
        rooms = [int(there / needed) for there, needed in pairs if needed > 0]
        return min(rooms, default=1)


def pool_size(units: int, fitting: int, *, grows: bool, most: int | None = None) -> tuple[int, int]:
    """Initial and maximum number of actors, both bounded by `units` and `most`.

    `fitting` is the number of actors that fit now. It is a bound only if the cluster does not grow. If it
    `grows`, the pool starts with `most` actors if set, otherwise with `fitting` or AHEAD, whichever is
    larger; its maximum is then `units`, because the autoscaler's limit cannot be read.
    """
    bound = units if most is None else min(units, most)
    if not grows:
        size = max(1, min(bound, fitting))
        return size, size
    return min(bound, max(fitting, AHEAD) if most is None else most), bound


def map_pool(
    session: Session,
    rows: Sequence[dict[str, Any]],
    make_worker: Callable[..., Callable[[dict[str, Any]], dict[str, Any]]],
    worker_args: dict[str, Any],
    share: Share,
) -> Iterator[dict[str, Any]]:
    """Apply a worker (one per actor) to every row. Yields results as they finish, in no fixed order.

    Rows and results travel as JSON, because Arrow would infer column types from single rows.
    If an actor or node dies, its row is retried on another actor.
    """
    if not rows:
        return
    if session.here:
        work = make_worker(**worker_args)
        for row in rows:
            yield json.loads(json.dumps(work(json.loads(json.dumps(row))), default=str))
        return
    import ray

    session.ray()
    first, most = _size(session, len(rows), share)
    results = ray.data.from_items(
        [{"row": json.dumps(row)} for row in rows], override_num_blocks=len(rows)
    ).map(
        _Worker,  # type: ignore[arg-type]  # a callable class: Ray Data makes one per actor
        fn_constructor_args=(make_worker, worker_args),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=first),
        num_cpus=share.cpus,
        num_gpus=share.gpus or None,
    )
    # Ray Data's budgets lag behind the cluster's size by up to 20 s: they would remove pending actors and
    # withhold rows from actors on new nodes. Rows are small, and a single operator needs no budget.
    results.context.op_resource_reservation_enabled = False
    # Never scale down between two rows, which would restart an actor for the next one: the pool shrinks
    # only after all rows have been handed out.
    results.context.autoscaling_config = replace(
        results.context.autoscaling_config,
        actor_pool_max_upscaling_delta=AHEAD,
        actor_pool_util_downscaling_threshold=-1.0,
    )
    for result in results.iter_rows():
        if result["failed"]:
            what, where, fix = json.loads(result["failed"])
            raise HeadwaterError(what, where=where, fix=fix)
        yield json.loads(result["result"])


def _size(session: Session, units: int, share: Share) -> tuple[int, int]:
    """Pool size for the cluster's current resources. Reports when no node has room for a worker yet."""
    import ray

    there = ray.cluster_resources()
    fitting = share.fitting(there.get("CPU", 0), there.get("GPU", 0))
    if not fitting:
        wanted = f"{share.cpus:g} CPUs and {share.gpus:g} GPUs"
        if not session.grows:
            raise HeadwaterError(
                f"a worker needs {wanted}; only {there.get('CPU', 0):g} and {there.get('GPU', 0):g} exist",
                fix="reduce the request, or join a larger cluster with --address",
            )
        session.say(f"no node has room for a worker ({wanted}) yet; waiting for a node")
    return pool_size(units, fitting, grows=session.grows, most=session.max_workers)


class _Worker:
    """Creates its worker at the first row, so that an actor that gets no row loads nothing."""

    def __init__(self, make_worker: Callable[..., Any], arguments: dict[str, Any]) -> None:
        self._make_worker, self._arguments = make_worker, arguments
        self._work: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Returns a HeadwaterError as a result, because Ray Data keeps only the text of exceptions."""
        try:
            if self._work is None:
                self._work = self._make_worker(**self._arguments)
            return {"result": json.dumps(self._work(json.loads(row["row"])), default=str), "failed": ""}
        except Exception as error:
            told = readable(error)
            if told is None:
                raise
            return {"result": "", "failed": json.dumps([told.what, told.where, told.fix])}
