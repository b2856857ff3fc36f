"""The training loop on ranks of `on_ranks`, without Ray: as the workers of Ray Train run it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.training import engine as training_engine
from headwater.llm.training.config import TrainConfig
from headwater.llm.training.health.watchdog import SHARE_OF_TIMEOUT, Watchdog
from headwater.llm.training.job import BatchSource, Start, TrainJob, Worker
from headwater.llm.training.loop import export, run_steps
from headwater.llm.training.losses.objectives import NextToken, Objective
from headwater.llm.training.state.manager import Checkpoints
from tests.llm.models import small_model

NOWHERE = Folder(Artifact("/nowhere"), "model")


class Screen:
    """A board that is no actor: what is said to it goes to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.report = SimpleNamespace(remote=_unseen)

    def say(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(line + "\n")


def _unseen(*_: object, **__: object) -> None:
    """Progress, which nobody looks at here."""


def run_job(
    folder: Path | str,
    source: BatchSource,
    screen: Path,
    evaluate: Callable[[Worker], dict[str, float]] | None = None,
    judged_by: str | None = None,
    objective: Objective | None = None,
    tokenizer: Folder | None = None,
    model: Callable[[], torch.nn.Module] = small_model,
    keep: Iterable[int] = (),
    start: Start | None = None,
    **settings: Any,
) -> Worker:
    """Run or go on with a job whose output is `folder`, on the ranks of this group; what is left of it.

    With a tokenizer the model is exported in the end."""
    world_size = dist.get_world_size()
    defaults = {"steps": 6, "batch": 8, "micro_batch": 2, "precision": "fp32", "checkpoint_every": 2}
    config = TrainConfig(**(defaults | {"learning_rate": 3e-3, "workers": world_size} | settings))
    output = Artifact(str(folder), "train", "key")
    own = functools.partial(_as_new, model())
    job = TrainJob("test", config, objective or NextToken(), source, own, tokenizer or NOWHERE, output)
    job.evaluate, job.judged_by, job.board = evaluate, judged_by, Screen(screen)
    job.keep, job.start = frozenset(keep), start
    return work(job)


def _as_new(model: torch.nn.Module) -> torch.nn.Module:
    """A copy, or the model itself if it has no values that training could change."""
    return model if next(model.parameters()).is_meta else copy.deepcopy(model)


def work(job: TrainJob) -> Worker:
    """This rank's part of a job, whose board is a `Screen`; the model is exported if there is a tokenizer."""
    config, world_size = job.config, dist.get_world_size()
    engine = training_engine.build(job.load_model(), config, world_size, fill=False)
    worker = Worker(dist.get_rank(), world_size, engine, engine.device, peak=1e12, say=job.board.say)
    checkpoints = Checkpoints(job, worker)
    start = checkpoints.restore()
    job.source.open(worker)
    with Watchdog(worker, job.output, SHARE_OF_TIMEOUT * config.collective_timeout_s) as watchdog:
        run_steps(job, worker, checkpoints, start, watchdog)
    if job.tokenizer is not NOWHERE:
        export(job, worker, checkpoints, dist.barrier)
    checkpoints.close()
    return worker
