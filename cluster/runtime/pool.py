"""A pool of actors that Ray Data feeds: how many there may be, and the results as they are ready.

On a cluster that is given (the embedded one) a pool takes what is there. On a cluster that was
joined by its address more nodes may come. An actor that waits for a place is what Ray's autoscaler
counts as demand, so a pool there starts a few actors more than find room, and a few more whenever
those are at work: nodes are added until the backlog is covered or the autoscaler's own limit is
reached, and each actor begins when its node is there. When the backlog has been handed out, actors
without work end, so that their nodes fall idle and are removed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headwater.cluster.errors import HeadwaterError, readable
from headwater.cluster.runtime.session import Session

AHEAD = 4
"""Actors that are started at a time where there may be no room for them yet. More would bring nodes sooner,
but one whose turn never comes has a price: an actor that died is put behind it, and it starts in vain when
the first ones end (Ray withdraws no actor before it has answered once)."""


@dataclass(frozen=True)
class Share:
    """What Ray reserves for one actor of a pool."""

    cpus: float = 1.0
    gpus: float = 0.0

    def fitting(self, cpus: float, gpus: float) -> int:
        """Actors that find room in so many CPUs and GPUs."""
        pairs = ((cpus, self.cpus), (gpus, self.gpus))
        rooms = [int(there / needed) for there, needed in pairs if needed > 0]
        return min(rooms, default=1)


def pool_size(units: int, fitting: int, *, grows: bool, most: int | None = None) -> tuple[int, int]:
    """Actors at the start, and at most: never more than there are units, nor than `most`.

    Where the cluster `grows`, `fitting` (what finds room now) is no bound: the pool starts with `most` at
    once if it was set. If not, it starts with what fits, or AHEAD, and the units are its bound, since
    what the autoscaler allows cannot be read from outside.
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
    """Apply one worker an actor to every row; results come as they are ready, in no order.

    Rows and results are JSON: as Arrow columns their types would be guessed from single rows.
    A row whose actor or node dies is given to another.
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
    # Ray Data's budgets follow the cluster's size by up to 20 s: they would take away the actors that
    # wait for a node, and hold back work from those whose node has come. Rows here are small, and one
    # operator needs no budget.
    results.context.op_resource_reservation_enabled = False
    # Nor is an actor to be ended in the moment between two rows, only to be started anew for the next one: a
    # pool shrinks when all rows have been handed out.
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
    """How large the pool is to be, from what the cluster has now. Says so when it has no room yet."""
    import ray

    there = ray.cluster_resources()
    fitting = share.fitting(there.get("CPU", 0), there.get("GPU", 0))
    if not fitting:
        wanted = f"{share.cpus:g} CPUs and {share.gpus:g} GPUs"
        if not session.grows:
            raise HeadwaterError(
                f"a worker needs {wanted}; here are {there.get('CPU', 0):g} and {there.get('GPU', 0):g}",
                fix="ask for less, or join a larger cluster with --address",
            )
        session.say(f"no node has room for a worker ({wanted}) yet; waiting for one")
    return pool_size(units, fitting, grows=session.grows, most=session.max_workers)


class _Worker:
    """Makes its worker for the first row: an actor that comes too late to get one loads nothing."""

    def __init__(self, make_worker: Callable[..., Any], arguments: dict[str, Any]) -> None:
        self._make_worker, self._arguments = make_worker, arguments
        self._work: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """An error meant for people travels as a result: of an exception Ray Data keeps only the text."""
        try:
            if self._work is None:
                self._work = self._make_worker(**self._arguments)
            return {"result": json.dumps(self._work(json.loads(row["row"])), default=str), "failed": ""}
        except Exception as error:
            told = readable(error)
            if told is None:
                raise
            return {"result": "", "failed": json.dumps([told.what, told.where, told.fix])}
