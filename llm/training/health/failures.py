"""What happens to a group of training workers, told to the person in front of the screen and to the log.

Ray Train restarts a group that has lost a worker, quietly. A `FailureReporter` in its controller says which
rank on which host it was and why, with how many workers it goes on, and what a run waits for that has
not room enough.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayActorError
from ray.train import ControllerError, TrainingFailedError, UserCallback, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

from headwater.cluster.errors import HeadwaterError, root_cause
from headwater.llm.training.config import TrainConfig

CAUSE_SECONDS = 10.0
"""Ray takes the first failure that it sees for the cause. It looks every half second, but hears of a death
later where cores are scarce; once it has, it ends the others without waiting for them."""


@dataclass(frozen=True)
class RankPlace:
    """Where a rank runs: its host's address and Ray's id of that node."""

    host: str
    node: str


class FailureReporter(UserCallback):
    """Lives in Ray Train's controller, which the loss of a training host does not touch."""

    def __init__(self, label: str, config: TrainConfig, board: Any) -> None:
        self.label, self.config, self.board = label, config, board
        self.places: list[RankPlace] = []
        self.losses = 0

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        if "joined" not in metrics[0]:
            return
        before, self.places = self.places, [RankPlace(**report["joined"]) for report in metrics]
        if before:
            hosts = ", ".join(sorted({place.host for place in self.places}))
            self._say(f"goes on from step {metrics[0]['step']} with {len(self.places)} workers on {hosts}")

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        import ray
        from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
            get_or_create_autoscaling_coordinator,
        )

        self.losses += 1
        # Ray counts what an elastic group may have every 20 s; with an old count it would wait, a minute
        # unless told otherwise, for room on the host that is gone.
        get_or_create_autoscaling_coordinator().get_reserved_resources.remote("", recompute=True)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        lost = describe(worker_exceptions, self.places, {node["NodeID"] for node in nodes})
        self._say(f"{lost} (failure {self.losses}, {self.config.max_failures} are answered by a restart)")
        wanted, room = self.config.fewest_workers(), room_for(self.config, nodes)
        if room < wanted and self.losses <= self.config.max_failures:
            advice = "" if self.config.min_workers else "; with `min_workers` it would go on without"
            self._say(f"the hosts left have room for {room} of {wanted} workers: waiting for more{advice}")

    def _say(self, line: str) -> None:
        self.board.say.remote(f"{self.label}: {line}")


@contextlib.contextmanager
def cause_first() -> Iterator[None]:
    """A rank that has lost its connection holds its tongue until Ray can have seen who is gone."""
    try:
        yield
    except RuntimeError as error:
        if _is_loss(error):
            time.sleep(CAUSE_SECONDS)
        raise


def describe(failures: Mapping[int, BaseException], places: list[RankPlace], alive: Collection[str]) -> str:
    """The worst of what the workers of a group failed with.

    A lost host outweighs a dead process, and that a broken connection: the ranks that are left fail only
    because they talk to the one that is gone. An error of the job's own outweighs them all.
    """
    own = [rank for rank, error in failures.items() if not _is_loss(error)]
    hosts = [rank for rank in failures if rank < len(places) and places[rank].node not in alive]
    dead = [rank for rank, error in failures.items() if isinstance(_inner(error), RayActorError)]
    silent = [rank for rank, error in failures.items() if isinstance(error, WorkerHealthCheckTimeoutError)]
    if own:
        error = failures[own[0]]
        words = (
            error if isinstance(error, HeadwaterError) else f"{type(error).__name__}: {_first_line(error)}"
        )
        return f"{_ranks(own[:1], places)} failed: {words}"
    if hosts:
        return f"lost the host of {_ranks(hosts, places)}"
    if dead:
        return f"the process of {_ranks(dead, places)} died"
    if silent:
        return f"{_ranks(silent, places)} no longer answers"
    rank = next(iter(failures))
    return f"{_ranks([rank], places)} lost its connection to the others: {_first_line(failures[rank])}"


def room_for(config: TrainConfig, nodes: Iterable[Mapping[str, Any]]) -> int:
    """How many workers the nodes' CPUs and GPUs could hold."""
    room = 0
    for node in nodes:
        resources = node["Resources"]
        fits = resources.get("CPU", 0.0) // config.cpus_per_worker
        if config.gpus_per_worker:
            fits = min(fits, resources.get("GPU", 0.0) // config.gpus_per_worker)
        room += int(fits)
    return room


def lost_at_start(error: TrainingFailedError) -> bool:
    """Whether a worker died while its group was being formed, which Ray Train takes for its own error."""
    if not isinstance(error, ControllerError):
        return False
    return isinstance(error.controller_failure, RayActorError | WorkerHealthCheckFailedError)


def final_error(error: TrainingFailedError, last_words: str, config: TrainConfig) -> BaseException:
    """What to raise when Ray Train has given up: a HeadwaterError, unless it was a bug in the job."""
    if not isinstance(error, WorkerGroupError):
        return root_cause(error) if isinstance(root_cause(error), HeadwaterError) else error
    failures = error.worker_failures
    for failure in failures.values():
        if isinstance(failure, HeadwaterError):
            return failure
    if not all(map(_is_loss, failures.values())):
        return error
    return HeadwaterError(
        f"training was given up after {config.max_failures} restarts",
        where=last_words or describe(failures, [], ()),
        fix="see to the hosts, then run the same command again: it goes on from the last checkpoint; "
        "`max_failures` allows more",
    )


def _is_loss(error: BaseException) -> bool:
    """Whether a worker failed through no doing of its own: it, its host or a connection is gone."""
    from torch.distributed import DistError

    if isinstance(error, (WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError, RayActorError)):
        return True
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _inner(error: BaseException) -> BaseException:
    return error.health_check_failure if isinstance(error, WorkerHealthCheckFailedError) else error


def _ranks(ranks: list[int], places: list[RankPlace]) -> str:
    """`rank 1 (10.0.0.4)`, `ranks 2, 3 (10.0.0.5)`."""
    hosts = sorted({places[rank].host for rank in ranks if rank < len(places)})
    where = f" ({', '.join(hosts)})" if hosts else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}{where}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")
