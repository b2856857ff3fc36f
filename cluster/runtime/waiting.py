"""Says what a stage waits for while the cluster has no room for its actors."""

from __future__ import annotations

import collections
import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from headwater.cluster.runtime.needs import Need, amount, first_fit, room, total
from headwater.cluster.runtime.session import Session

log = logging.getLogger("headwater")

LONGEST_PAUSE = 600.0
"""Maximum seconds between two lines of one wait; the pause doubles up to it."""
LIMIT = 10_000
"""Largest number of actors that Ray's state API lists."""
POOL = "MapWorker"
"""Beginning of the class names of Ray Data's actors."""


@contextlib.contextmanager
def watch(session: Session, stage: str) -> Iterator[None]:
    """Print what the stage waits for if it makes no progress for `session.patience` seconds."""
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(session, stage, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=1)


def _follow(session: Session, stage: str, ended: threading.Event) -> None:
    pause = due = session.patience
    while not ended.wait(session.patience / 4):
        idle = session.idle_seconds()
        if idle < session.patience:  # it goes on
            pause = due = session.patience
        elif idle >= due:
            if (line := _waits(stage)) and not ended.is_set():
                session.say(line)
                pause = min(2 * pause, LONGEST_PAUSE)
            due = idle + pause


def _waits(stage: str) -> str:
    """The line about a wait; empty if this process's job waits for nothing, or cannot know."""
    import ray
    from ray.util.state.exception import RayStateApiException, ServerUnavailable

    if not ray.is_initialized() or ray.util.client.ray.is_connected():
        return ""
    try:
        return describe(stage, demand(), [room(node["Resources"]) for node in ray.nodes() if node["Alive"]])
    except (RayStateApiException, ServerUnavailable, ray.exceptions.RayError, OSError) as error:
        log.info("cannot see what the cluster's resources are used for: %s", error)
        return ""


@dataclass
class Demand:
    """What is reserved in a cluster, by whom, and what this job waits for."""

    held: dict[str, list[Need]] = field(default_factory=lambda: collections.defaultdict(list))
    wanted: list[Need] = field(default_factory=list)


def demand() -> Demand:
    """The cluster's actors and placement groups that reserve CPUs or GPUs. Ray must be connected.

    More actors of a pool that works already are no wait: it asks for them so that nodes are added.
    """
    import ray
    from ray.util.state import list_actors, list_placement_groups

    context = ray.get_runtime_context()
    here, job = context.gcs_address, context.get_job_id()
    found = Demand()
    alive_or_pending = [("state", "!=", "DEAD")]
    actors = [
        actor
        for actor in list_actors(here, filters=alive_or_pending, limit=LIMIT, detail=True)  # type: ignore[arg-type]
        if not actor.placement_group_id  # the group's reservation counts
    ]
    working = any(_is_of_pool(a) and a.state == "ALIVE" and a.job_id == job for a in actors)
    for actor in actors:
        own = actor.job_id == job
        needs = [room(actor.required_resources or {})]
        if actor.state == "ALIVE":
            _add(found, actor.class_name if own else "another job", needs)
        elif own and not (working and _is_of_pool(actor)):
            _add(found, None, needs)
    for group in list_placement_groups(here, limit=LIMIT, detail=True):
        own = group.creator_job_id == job
        needs = [room(bundle["unit_resources"]) for bundle in group.bundles or []]
        if group.state == "CREATED":
            _add(found, "training" if own else "another job", needs)
        elif own and group.state in ("PENDING", "RESCHEDULING"):
            _add(found, None, needs)
    return found


def _is_of_pool(actor: Any) -> bool:
    return str(actor.class_name).lstrip("_").startswith(POOL)


def _add(found: Demand, holder: str | None, needs: list[Need]) -> None:
    real = [need for need in needs if need.cpus or need.gpus]
    if real:
        (found.wanted if holder is None else found.held[holder]).extend(real)


def describe(stage: str, found: Demand, rooms: list[Need]) -> str:
    """`rl waits for 1 CPU: 3 CPUs wanted, 2 CPUs there; in use: 1 CPU by RolloutWorker (2)`.

    Empty if everything has room: what is still pending then is only starting.
    """
    held = [need for needs in found.held.values() for need in needs]
    if not found.wanted or not first_fit([*held, *found.wanted], rooms)[1]:
        return ""
    wanted, there = total([*held, *found.wanted]), total(rooms)
    missing = Need(max(0.0, wanted.cpus - there.cpus), max(0.0, wanted.gpus - there.gpus))
    what = amount(missing) if missing != Need(0) else f"{amount(max(found.wanted, key=_size))} on one node"
    sizes = f"{amount(wanted)} wanted, {amount(there)} there"
    return f"{stage} waits for {what}: {sizes}; in use: {_used(found.held)}"


def _size(need: Need) -> tuple[float, float]:
    return need.gpus, need.cpus


def _used(held: Mapping[str, list[Need]]) -> str:
    used = [f"{amount(total(needs))} by {name} ({len(needs)})" for name, needs in sorted(held.items())]
    return ", ".join(used) or "nothing"
