"""Train a finished rl stage again from its journal, and compare weights and records bit for bit.

Nothing is sampled, so the number of rollout workers does not matter. Each part of the run is trained with the
settings and the number of learners that it had (`Journal.starts`). Equality is to be expected on the same
kind of machine and the same versions. Another number of learners adds up gradients in another order: its
figures and weights are compared `WITHIN` instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.llm.examples.tasks import Task
from headwater.llm.rl.config import RlConfig
from headwater.llm.rl.rollouts.journal import FOLDER, Journal, Start
from headwater.llm.rl.rollouts.sampler import Replayed
from headwater.llm.stages.rl import learner
from headwater.llm.training import loop
from headwater.llm.training.job import BatchSource, StopTraining, TrainJob, Worker

MEASURED = frozenset(
    {"tokens_per_second", "seconds", "data_wait", "memory_mb", "mfu", "rollout_wait", "goodput"}
)
"""Figures of a step that depend on time or machine."""
WITHIN = 1e-5
"""Largest difference with another number of learners, of what is below 1; above, relative to it. That of the
invariance contract: Adam turns a last bit of a small gradient into a larger part of a step."""
SAMPLED = "heldout_"
"""Beginning of the names of evaluations, which need rollout workers."""


@dataclass(frozen=True)
class Difference:
    """Where a replay first differs."""

    where: str
    """`step 12, loss`, or the name of a weight."""
    finished: float
    replayed: float
    count: int = 1
    """Numbers that differ there."""

    def __str__(self) -> str:
        more = f" ({self.count:,} numbers differ)" if self.count > 1 else ""
        return f"{self.where}: {self.finished!r} in the artifact, {self.replayed!r} in the replay{more}"


class _Reached(StopTraining):
    """A part of a replay is done."""


class _Until:
    """The batches of a source before a step, at which it stops."""

    def __init__(self, source: BatchSource, end: int) -> None:
        self.source, self.end = source, end

    def open(self, worker: Worker) -> None:
        self.source.open(worker)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        if step == self.end:
            raise _Reached(f"replayed up to step {step}")
        return self.source.batch(step)

    def metrics(self) -> dict[str, float]:
        return self.source.metrics()


def replay(
    config: RlConfig,
    inputs: Mapping[str, Artifact],
    finished: Artifact,
    output: Artifact,
    train: Callable[[TrainJob], Any],
    learners: int | None = None,
) -> Difference | None:
    """Train from the journal of `finished` into `output` with `train`, then compare; None if all is equal.

    `learners` takes the place of the number that the run had. Raises HeadwaterError for an artifact without a
    whole journal, and for settings that another number of learners would change the meaning of.
    """
    journal = Journal(finished)
    starts, count = checked(journal, config)
    within = WITHIN if any(start.learners != (learners or start.learners) for start in starts) else 0.0
    if within:
        check_learners(config, learners or 1)
    tasks = [Task(f"prompt {number}", []) for number in range(count)]
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        settings = start.settings | {
            "workers": learners or start.learners,
            "min_workers": None,
            "keep_best": False,
            "background_checkpoints": False,
            "track": {"tensorboard": False},
            "checkpoint_every": following.step if following else config.steps,
        }
        part = RlConfig.model_validate(config.model_dump() | settings)
        job = learner(part, inputs, output, tasks, [], Replayed(journal))
        if following is not None:
            job.source = _Until(job.source, following.step)
        try:
            train(job)
        except _Reached:
            continue
    return compared(finished, output, within)


def check_learners(config: RlConfig, learners: int) -> None:
    """Raises HeadwaterError if so many learners cannot train as the run's own did."""
    most = config.batch // config.group
    if learners > most:
        raise HeadwaterError(
            f"a step has {most} groups of {config.group} answers, fewer than {learners} learners",
            where="--learners",
            fix=f"give {most} at most",
        )
    if config.lora and config.lora.dropout:
        raise HeadwaterError(
            "every learner draws its own dropout: another number of them is another run",
            where="rl.lora.dropout",
            fix="replay without --learners",
        )


def through_ray(session: Session) -> Callable[[TrainJob], Any]:
    return lambda job: loop.train(job, session)


def checked(journal: Journal, config: RlConfig) -> tuple[Sequence[Start], int]:
    """The starts of a run with a whole journal, and one more than the highest number of its tasks.

    Raises HeadwaterError that says what is missing or damaged.
    """
    starts, wanted = journal.starts(), range(-(-config.steps // config.steps_per_rollout()))
    missing = sorted(set(wanted) - journal.numbers())
    if not starts or starts[0].step or len(missing) == len(wanted):
        raise HeadwaterError(
            "this artifact has no journal, so its answers would have to be sampled again",
            where=journal.output.path(FOLDER),
            fix="train again with this version to get one: headwater run RECIPE --from rl",
        )
    if missing:
        raise HeadwaterError(
            f"{len(missing)} of {len(wanted)} entries of the journal are missing",
            where=journal.output.path(journal.name(missing[0])),
            fix="restore the files",
        )
    return starts, 1 + max(max(journal.read(number).tasks) for number in wanted)


def compared(finished: Artifact, replayed: Artifact, within: float = 0.0) -> Difference | None:
    """The first difference in the records of the steps, then in the weights, above `within`; 0: of bits."""
    records, again_records = loop.read_history(finished), loop.read_history(replayed)
    if len(records) != len(again_records):
        return Difference("the number of steps", len(records), len(again_records))
    for record, again in zip(records, again_records, strict=True):
        for name in (n for n in record if n not in MEASURED and not n.startswith(SAMPLED)):
            one, other = record[name], again.get(name, math.nan)
            near = one == other or abs(one - other) <= within * max(1.0, abs(one))
            if not near and not (math.isnan(one) and name in again and math.isnan(other)):
                return Difference(f"step {int(record['step'])}, {name}", one, other)
    return compared_weights(finished.local("model"), replayed.local("model"), within)


def compared_weights(finished: Path, replayed: Path, within: float = 0.0) -> Difference | None:
    """The first parameter of two Hugging Face folders that differs, as in `compared`."""
    import torch
    from safetensors.torch import load_file

    for file in sorted(path.name for path in finished.glob("*.safetensors")):
        one, other = load_file(finished / file), load_file(replayed / file)
        for name, weights in one.items():
            if name not in other or other[name].shape != weights.shape:
                return Difference(f"{name}, which the replay does not have in this shape", math.nan, math.nan)
            if within:
                same = (weights - other[name]).abs() <= within * weights.abs().clamp(min=1)
            else:
                same = _bits(weights) == _bits(other[name])
            if not bool(torch.all(same)):
                place = int(torch.argmin(same.flatten().int()))
                was, now = (float(each.flatten()[place]) for each in (weights, other[name]))
                return Difference(f"{name}[{place}]", was, now, int((~same).sum()))
    return None


def _bits(weights: Any) -> Any:
    import torch

    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return weights.contiguous().view(kinds[weights.element_size()])
