"""What a stage runs at the same time, what a cluster has, and whether the one fits into the other."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from headwater.cluster.errors import HeadwaterError

if TYPE_CHECKING:
    from headwater.cluster.runtime.session import Session


@dataclass(frozen=True)
class Need:
    """CPUs and GPUs that one actor reserves, or that one node or pod has."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Actors:
    """Actors (or tasks) of one kind that a stage runs at the same time."""

    what: str
    """Their name in messages, in the plural."""
    count: int
    """The fewest with which the stage can work."""
    each: Need
    settings: tuple[str, ...] = ()
    """Settings of the stage that lower the need; `section.key` for another section's."""
    most: int | None = None
    """The number that the stage uses where there is room; None: `count`."""

    def at_most(self) -> Actors:
        return replace(self, count=self.count if self.most is None else self.most)


Moments = list[list[Actors]]
"""What a stage runs: lists that follow each other, each of actors that run at the same time."""


def pool(share: Need | None = None, settings: tuple[str, ...] = ()) -> list[Actors]:
    """One actor of a pool: it works with as few, and takes as many as there is room for."""
    return [Actors("pool workers", 1, share or Need(1), settings)]


def needs_of(actors: Iterable[Actors]) -> list[Need]:
    """One entry per actor."""
    return [group.each for group in actors for _ in range(group.count)]


def first_fit(
    needs: Iterable[Need], rooms: Sequence[Need], another: Need | None = None
) -> tuple[list[Need], list[Need]]:
    """Place actors into rooms (nodes, pods), the largest first. `another` is a room that can be added.

    Returns what is left of each room, and the actors that no room holds.
    """
    free, outside = list(rooms), []
    for need in sorted(needs, key=lambda need: (need.gpus, need.cpus), reverse=True):
        for number, left in enumerate(free):
            if _holds(left, need):
                free[number] = Need(left.cpus - need.cpus, left.gpus - need.gpus)
                break
        else:
            if another is not None and _holds(another, need):
                free.append(Need(another.cpus - need.cpus, another.gpus - need.gpus))
            else:
                outside.append(need)
    return free, outside


def _holds(left: Need, need: Need) -> bool:
    return need.cpus <= left.cpus + 1e-9 and need.gpus <= left.gpus + 1e-9


def total(needs: Iterable[Need]) -> Need:
    listed = list(needs)
    return Need(sum(need.cpus for need in listed), sum(need.gpus for need in listed))


def amount(need: Need) -> str:
    """`1 CPU`, `0.5 CPUs and 2 GPUs`; GPUs are named only if there are any."""
    parts = [f"{need.cpus:g} CPU{'s'[: need.cpus != 1]}"] if need.cpus or not need.gpus else []
    parts += [f"{need.gpus:g} GPU{'s'[: need.gpus != 1]}"] if need.gpus else []
    return " and ".join(parts)


def listed(actors: Iterable[Actors]) -> str:
    """`2 training workers of 1 CPU, 2 rollout workers of 0.5 CPUs`."""
    named = [(group, group.what.removesuffix("s") if group.count == 1 else group.what) for group in actors]
    return ", ".join(f"{group.count} {what} of {amount(group.each)}" for group, what in named)


def refuse_too_large(stage: str, actors: Sequence[Actors], rooms: Sequence[Need], open_ended: bool) -> None:
    """Raises HeadwaterError if the rooms of a cluster that does not grow cannot hold the actors together."""
    needs = needs_of(actors)
    if open_ended or not first_fit(needs, rooms)[1]:
        return
    wanted, there = total(needs), total(rooms)
    size = f"{there.cpus:g} CPU{'s'[: there.cpus != 1]}"
    size += f" and {there.gpus:g} GPU{'s'[: there.gpus != 1]}" if wanted.gpus else ""
    size += f" on {len(rooms)} nodes" if len(rooms) > 1 else ""
    keys = [
        key if "." in key or not stage else f"{stage}.{key}" for group in actors for key in group.settings
    ]
    lower = f"lower {' or '.join(f'`{key}`' for key in dict.fromkeys(keys))}, or " if keys else ""
    raise HeadwaterError(
        f"{listed(actors)} at once: {amount(wanted)} do not fit into {size}",
        where=stage,
        fix=f"{lower}join a larger cluster with --address",
    )


def nodes(session: Session, *, gpus: bool) -> tuple[list[Need], bool]:
    """The nodes of the session's cluster, and whether others may join them.

    Does not start an embedded Ray, but says what it will be given. GPUs are counted only if `gpus`. A joined
    cluster is open-ended unless its autoscaler publishes how many nodes of each kind it can add.
    """
    import ray

    if session.address is None and not ray.is_initialized():
        return [Need(session.embedded_cpus(), _visible_gpus() if gpus else 0)], False
    session.ray()
    there = [room(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    if session.address is None:
        return there, False
    groups = _node_groups()
    counts: collections.Counter[Need] = collections.Counter(there)
    for kind, most in groups:
        counts[kind] = max(counts[kind], most)
    return list(counts.elements()), not groups


def room(resources: Any) -> Need:
    """The CPUs and GPUs among Ray's resources."""
    return Need(float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))


def _node_groups() -> list[tuple[Need, int]]:
    """Each kind of node that the autoscaler can add and how many; empty if unknown or without a limit."""
    import ray
    from ray._private import state

    if ray.util.client.ray.is_connected():  # ray:// has no access to it
        return []
    config = state.state.get_cluster_config()
    groups = list(config.node_group_configs) if config else []
    if any(group.max_count < 0 for group in groups):
        return []
    return [(room(group.resources), int(group.max_count)) for group in groups]


def _visible_gpus() -> float:
    """GPUs that an embedded Ray will find."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    assert manager is not None, "Ray knows GPUs"
    found = manager.get_current_node_num_accelerators()
    visible = manager.get_current_process_visible_accelerator_ids()
    return float(found if visible is None else min(found, len(visible)))
