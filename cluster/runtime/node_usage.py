"""Node time of a run: the seconds that each node was alive, summed over nodes.

An autoscaling cluster adds and removes nodes, and node time is what is billed. A thread polls the cluster;
the error is about one polling interval per node added or removed.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from headwater.cluster.runtime.session import Session

log = logging.getLogger("headwater")

INTERVAL_SECONDS = 1.0
RECORD_SECONDS = 5.0


@dataclass
class NodeUsage:
    """Accumulates node seconds from samples of the live nodes, added with `see`."""

    node_seconds: float = 0.0
    most_nodes: int = 0
    seconds: float = 0.0
    """Seconds between the first and the last sample."""
    _alive: frozenset[str] = field(default=frozenset(), repr=False)
    _last: float | None = field(default=None, repr=False)

    def see(self, alive: frozenset[str], now: float) -> None:
        """Add a sample by the trapezoid rule: a node seen at one end of an interval counts for half of it."""
        if self._last is not None:
            interval = now - self._last
            self.seconds += interval
            self.node_seconds += interval * (len(alive) + len(self._alive)) / 2
        self.most_nodes = max(self.most_nodes, len(alive))
        self._alive, self._last = alive, now

    def row(self) -> dict[str, float]:
        return {
            "seconds": round(self.seconds, 1),
            "node_seconds": round(self.node_seconds, 1),
            "most_nodes": self.most_nodes,
        }


@contextlib.contextmanager
def count_nodes(session: Session, record: Callable[[NodeUsage], None]) -> Iterator[NodeUsage]:
    """Count node time until the block ends.

    Calls `record` every few seconds and at the end, so that the count of a killed run is kept.
    """
    if not session.here:
        session.ray()
    usage, stop = NodeUsage(), threading.Event()
    _look(usage, session)

    def watch() -> None:
        recorded = time.monotonic()
        while not stop.wait(INTERVAL_SECONDS):
            _look(usage, session)
            if time.monotonic() - recorded > RECORD_SECONDS:
                recorded = time.monotonic()
                record(usage)

    thread = threading.Thread(target=watch, name="node-usage", daemon=True)
    thread.start()
    try:
        yield usage
    finally:
        stop.set()
        thread.join()
        _look(usage, session)
        record(usage)


def _look(usage: NodeUsage, session: Session) -> None:
    """Take one sample. After a failure, such as an unreachable head, the next sample covers the gap."""
    if session.here:
        usage.see(frozenset({"here"}), time.monotonic())
        return
    import ray

    try:
        alive = frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])
    except (ray.exceptions.RayError, RuntimeError, ConnectionError) as error:
        log.warning("cannot list the cluster's nodes: %s", error)
    else:
        usage.see(alive, time.monotonic())
