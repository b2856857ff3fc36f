"""Reports failures of training workers, on the user's screen and in the log.

Ray Train silently restarts a group that lost a worker. A `FailureReporter` in its controller reports which
rank on which host was lost and why, with how many workers training resumes, and what a run waits for if the
cluster is too small.
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

from headwater.cluster.errors import HeadwaterError, first_line, root_cause
from headwater.llm.training.config import TrainConfig

CAUSE_SECONDS = 10.0
"""Ray reports the first failure it sees as the cause, then ends the other workers. It polls every half second
but hears of a death later on busy hosts: secondary errors wait this long."""


@dataclass(frozen=True)
class RankPlace:
    """Where a rank runs: its host's address and Ray's node id."""

    host: str
    node: str


class FailureReporter(UserCallback):
    """Runs in Ray Train's controller, which survives the loss of training hosts."""

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
            self._say(f"resumes from step {metrics[0]['step']} with {len(self.places)} workers on {hosts}")

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        import ray
        from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
            get_or_create_autoscaling_coordinator,
        )

        self.losses += 1
        # Ray recounts the resources of an elastic group every 20 s. With the old count it would wait, by
        # default a minute, for room on the host that is gone.
        get_or_create_autoscaling_coordinator().get_reserved_resources.remote("", recompute=True)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        lost = describe(worker_exceptions, self.places, {node["NodeID"] for node in nodes})
        self._say(f"{lost} (failure {self.losses}, `max_failures` is {self.config.max_failures})")
        wanted, room = self.config.fewest_workers(), room_for(self.config, nodes)
        if room < wanted and self.losses <= self.config.max_failures:
            advice = "" if self.config.min_workers else "; set `min_workers` to resume with fewer"
            self._say(
                f"the remaining hosts have room for {room} of {wanted} workers: waiting for more{advice}"
            )

    def _say(self, line: str) -> None:
        self.board.say.remote(f"{self.label}: {line}")


@contextlib.contextmanager
def cause_first() -> Iterator[None]:
    """Delays a rank's connection error so that Ray sees the lost worker first."""
    try:
        yield
    except RuntimeError as error:
        if _is_loss(error):
            time.sleep(CAUSE_SECONDS)
        raise


def describe(failures: Mapping[int, BaseException], places: list[RankPlace], alive: Collection[str]) -> str:
    """The most severe of the failures of a group's workers.

    An error of the job comes first, then a lost host, a dead process, a broken connection: the remaining
    ranks only fail because they talk to the one that is gone.
    """
    own = [rank for rank, error in failures.items() if not _is_loss(error)]
    hosts = [rank for rank in failures if rank < len(places) and places[rank].node not in alive]
    found = {rank: getattr(error, "health_check_failure", error) for rank, error in failures.items()}
    dead = [rank for rank, error in found.items() if isinstance(error, RayActorError)]
    silent = [rank for rank, error in failures.items() if isinstance(error, WorkerHealthCheckTimeoutError)]
    if own:
        error = failures[own[0]]
        words = error if isinstance(error, HeadwaterError) else f"{type(error).__name__}: {first_line(error)}"
        return f"{_ranks(own[:1], places)} failed: {words}"
    if hosts:
        return f"lost the host of {_ranks(hosts, places)}"
    if dead:
        return f"the process of {_ranks(dead, places)} died"
    if silent:
        return f"{_ranks(silent, places)} does not respond"
    rank = next(iter(failures))
    return f"{_ranks([rank], places)} lost its connection to the others: {first_line(failures[rank])}"


def room_for(config: TrainConfig, nodes: Iterable[Mapping[str, Any]]) -> int:
    """Number of workers that fit into the nodes' CPUs and GPUs."""
    room = 0
    for node in nodes:
        resources = node["Resources"]
        fits = resources.get("CPU", 0.0) // config.cpus_per_worker
        if config.gpus_per_worker:
            fits = min(fits, resources.get("GPU", 0.0) // config.gpus_per_worker)
        room += int(fits)
    return room


def lost_at_start(error: TrainingFailedError) -> bool:
    """Whether a worker died while its group started, which Ray Train reports as a controller error."""
    if not isinstance(error, ControllerError):
        return False
    return isinstance(error.controller_failure, RayActorError | WorkerHealthCheckFailedError)


def final_error(error: TrainingFailedError, last_words: str, config: TrainConfig) -> BaseException:
    """The error to raise after Ray Train gave up: a HeadwaterError, unless the job has a bug."""
    if not isinstance(error, WorkerGroupError):
        return root_cause(error) if isinstance(root_cause(error), HeadwaterError) else error
    failures = error.worker_failures
    for failure in failures.values():
        if isinstance(failure, HeadwaterError):
            return failure
    if not all(map(_is_loss, failures.values())):
        return error
    return HeadwaterError(
        f"training failed after {config.max_failures} restarts",
        where=last_words or describe(failures, [], ()),
        fix="check the hosts, then run the same command again: it resumes from the last checkpoint; "
        "raise `max_failures` to allow more",
    )


def _is_loss(error: BaseException) -> bool:
    """Whether a failure comes from outside: a lost worker, host or connection."""
    from torch.distributed import DistError

    if isinstance(error, (WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError, RayActorError)):
        return True
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _ranks(ranks: list[int], places: list[RankPlace]) -> str:
    """`rank 1 (10.0.0.4)`, `ranks 2, 3 (10.0.0.5)`."""
    hosts = sorted({places[rank].host for rank in ranks if rank < len(places)})
    where = f" ({', '.join(hosts)})" if hosts else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}{where}"
