"""Ends the processes that a killed driver leaves in a running cluster. The next driver calls it.

Ray Train starts a detached `PlacementGroupCleaner` for every run. When the driver is killed, the cleaner
releases the run's resources but cannot exit: `exit_actor` does nothing in its thread (Ray 2.60). It holds
200 MB on the head until the cluster is stopped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from pathlib import Path

log = logging.getLogger("headwater")

CLEANER, CONTROLLER = "PlacementGroupCleaner", "TrainController"
LIMIT = 10_000
"""Largest number of actors that Ray's state API lists."""


def end_orphans() -> int:
    """End all cleaners whose run has no controller and return their number. Ray must be connected.

    Does nothing on a head without a dashboard, which cannot list its actors.
    """
    from ray.util.state.exception import RayStateApiException, ServerUnavailable

    try:
        return _end_orphans()
    except (RayStateApiException, ServerUnavailable) as error:
        log.info("cannot list the cluster's actors: %s", error)
        return 0


def _end_orphans() -> int:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    from ray.util.state import list_actors

    alive = ("state", "=", "ALIVE")
    here = ray.get_runtime_context().gcs_address  # the machine may host other clusters, too
    cleaners = list_actors(here, filters=[("class_name", "=", CLEANER), alive], limit=LIMIT)
    if not cleaners:
        return 0
    controllers = list_actors(here, filters=[("class_name", "=", CONTROLLER), alive], limit=LIMIT)
    running = {actor.job_id for actor in controllers}
    orphans = [actor for actor in cleaners if actor.job_id not in running]
    ended = 0
    for actor in orphans:
        strategy = NodeAffinitySchedulingStrategy(str(actor.node_id), soft=False)
        task = ray.remote(num_cpus=0, max_retries=0)(_end).options(scheduling_strategy=strategy)
        with contextlib.suppress(ray.exceptions.RayError):  # the node is gone, and its orphan too
            ended += ray.get(task.remote(actor.pid or 0), timeout=30)
    if ended:
        log.info("ended %d orphaned processes of killed drivers", ended)
    return ended


def _end(pid: int) -> int:
    """Runs on the orphan's node. Ends the process if it is still a cleaner; returns 1 if it did, else 0."""
    title = Path(f"/proc/{pid}/cmdline")
    if not title.exists() or CLEANER not in title.read_text(errors="replace"):
        return 0
    os.kill(pid, signal.SIGTERM)
    return 1
