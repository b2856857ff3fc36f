"""Measure how long a step, startup, a checkpoint and an evaluation take on this machine.

The real loop runs a few steps of the recipe's shape with its number of workers, on rows of random ids,
through Ray Train and DeepSpeed. The result is stored under the settings it depends on; `headwater plan` and
the run itself find it there.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
from pydantic import BaseModel

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.tokens.tokenizer import FOLDER, save_tokenizer, train, wrap
from headwater.llm.rows.order import ShuffledOrder
from headwater.llm.stages.pretrain import PretrainConfig, RowBatches
from headwater.llm.training import loop
from headwater.llm.training.bits_per_byte import BitsPerByte
from headwater.llm.training.held_memory import WithMemory
from headwater.llm.training.losses.objectives import NextToken

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from headwater.data_pipeline.tokens.shards import TokenRows

STEPS, CHECKPOINT_EVERY, EVALUATE_EVERY = 7, 3, 5
WARM = 2
"""Warm-up steps that do not count: they allocate memory and create kernels."""
OF_STAGE = 4
"""Steps in each stage of batches, of which the first `WARM` do not count."""
PLACES = "plans"
"""Folder in the store."""
DECIDES = {
    "batch",
    "micro_batch",
    "workers",
    "cpus_per_worker",
    "gpus_per_worker",
    "zero",
    "precision",
    "optimizer",
    "separate_documents",
    "sequence_parallel",
    "tensor_parallel",
    "activation_checkpointing",
    "torch_compile",
}
"""Settings of pretraining that affect a step's time and memory."""


class Calibration(BaseModel):
    """The measurements. Seconds are wall-clock time."""

    machine: str
    peak_flops: float
    """FLOP/s of all workers' matrix products together, in the training precision."""
    start_seconds: float
    """From the start of the stage to its first step, plus the extra time of the warm-up steps."""
    step_seconds: float
    checkpoint_seconds: float
    evaluation_pass_seconds: float
    """One micro-batch of validation rows on every worker."""
    end_seconds: float
    """From the last step to the end of the stage."""
    stage_seconds: list[float] = []
    """Of a step in each stage of batches; `step_seconds` is that of the usual ones."""
    state_bytes: int
    peak_bytes: int
    """Peak of a worker's process (or its GPU), including libraries."""

    def seconds(self, config: PretrainConfig, validation_rows: int) -> float:
        """Predicted seconds of a whole stage."""
        checkpoints = (config.steps - 1) // config.checkpoint_every
        evaluations = -(-config.steps // config.evaluate_every)
        passes = -(-validation_rows // (config.workers * config.micro_batch))
        steps = [*self.stage_seconds, self.step_seconds]
        return (
            self.start_seconds
            + sum(span.steps * seconds for span, seconds in zip(config.spans(), steps, strict=True))
            + checkpoints * self.checkpoint_seconds
            + evaluations * passes * self.evaluation_pass_seconds
            + self.end_seconds
        )


@dataclass
class RandomRows:
    """Rows of random ids with the interface of `TokenRows`."""

    rows: int
    row_length: int
    vocab_size: int
    pad_id: int = 0
    end_id: int = 1
    bytes: int = 1
    corpora: dict[str, range] = field(default_factory=dict)
    corpus_bytes: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.rows

    def gather(self, indices: np.ndarray) -> np.ndarray:
        generator = np.random.default_rng(int(indices[0]) if len(indices) else 0)
        return generator.integers(2, self.vocab_size, (len(indices), self.row_length + 1), dtype=np.int64)


class StampedRows(RowBatches):
    """Adds the end time of each step to its record."""

    def metrics(self) -> dict[str, float]:
        return {"ended_at": time.time()}


def place(config: PretrainConfig, shape: PreTrainedConfig, row_length: int, address: str | None) -> str:
    """The name of the file in the store for a measurement with these settings."""
    settings = config.model_dump(mode="json", include=DECIDES)
    if config.batch_stages:
        settings["batch_stages"] = [(stage.batch, stage.row_length) for stage in config.batch_stages]
    decides = {"settings": settings, "shape": shape.to_dict(), "row_length": row_length}
    machine = address or f"{platform.node()} {os.cpu_count()}"
    text = json.dumps([decides, machine], sort_keys=True, default=str)
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def read_calibration(store: Store, name: str) -> Calibration | None:
    folder = store.folder(PLACES)
    return Calibration.model_validate(folder.read_json(name)) if folder.exists(name) else None


def calibrate(
    config: PretrainConfig, shape: PreTrainedConfig, row_length: int, session: Session
) -> Calibration:
    """Measure, and save the result in the session's store."""
    name = place(config, shape, row_length, session.address)
    folder = session.store.folder(PLACES)
    scratch = session.store.folder(f"{PLACES}/{name.removesuffix('.json')}")
    scratch.delete_folder("")
    session.ray()
    try:
        measured = _measure(config, shape, row_length, session, scratch)
    finally:
        scratch.delete_folder("")
    folder.write_json(name, measured.model_dump())
    return measured


def _measure(
    config: PretrainConfig, shape: PreTrainedConfig, row_length: int, session: Session, scratch: Artifact
) -> Calibration:
    from headwater.llm.model.origins import fresh

    with scratch.create_folder(FOLDER) as tokenizer:
        save_tokenizer(wrap(train(["a b c"], 300, 2)), tokenizer)
    stages = tuple(
        stage.model_copy(update={"until": number * OF_STAGE})
        for number, stage in enumerate(config.batch_stages, 1)
    )
    short = config.model_copy(
        update={
            "steps": len(stages) * OF_STAGE + STEPS,
            "batch_stages": stages,
            "checkpoint_every": CHECKPOINT_EVERY,
            "evaluate_every": EVALUATE_EVERY,
        }
    )
    vocabulary = shape.vocab_size
    rows = cast("TokenRows", RandomRows(1 << 20, row_length, vocabulary))
    passes = cast("TokenRows", RandomRows(2 * config.workers * config.micro_batch, row_length, vocabulary))
    apart = config.separate_documents
    evaluation = WithMemory(BitsPerByte(passes, config.micro_batch, separate_documents=apart))
    started = time.time()
    history = loop.train(
        loop.TrainJob(
            label="measure",
            config=short,
            objective=NextToken(config.z_loss),
            source=StampedRows(
                rows,
                ShuffledOrder(len(rows), config.batch, 0, early=short.sizes().early),
                separate_documents=apart,
                workers_per_row=config.workers_per_row(),
                stretches=config.sequence_parallel_size(),
                cut=short.cut,
            ),
            load_model=functools.partial(fresh, shape, config.seed),
            tokenizer=Folder(scratch, FOLDER),
            output=scratch,
            evaluate=Probe(evaluation),
        ),
        session,
    )
    return from_history(history, started, time.time(), len(stages))


class Probe:
    """The evaluation: records its duration, and the workers' total peak FLOP/s measured at startup."""

    def __init__(self, evaluate: WithMemory) -> None:
        self.evaluate = evaluate

    def __call__(self, worker: loop.Worker) -> dict[str, float]:
        started = time.perf_counter()
        figures = self.evaluate(worker)
        took = time.perf_counter() - started
        return figures | {"evaluation_seconds": took, "peak_flops": worker.peak}


def from_history(
    history: Sequence[dict[str, float]], started: float, ended: float, stages: int = 0
) -> Calibration:
    """A calibration from the records of the steps, with those of so many stages of batches first, and the
    times (clock seconds) before and after."""
    firsts = [OF_STAGE * stage for stage in range(stages + 1)]
    parts = [history[first:end] for first, end in itertools.pairwise([*firsts, len(history)])]
    means = [statistics.mean(record["seconds"] for record in part[WARM:]) for part in parts]
    warming = sum(
        max(0.0, record["seconds"] - mean)
        for part, mean in zip(parts, means, strict=True)
        for record in part[:WARM]
    )
    between = [
        after["ended_at"] - after["seconds"] - before["ended_at"]
        for before, after in itertools.pairwise(history)
    ]
    saved = [between[k - 1] for k in range(CHECKPOINT_EVERY, len(history), CHECKPOINT_EVERY)]
    nothing = min(between)
    last = history[-1]
    return Calibration(
        machine=f"{platform.node()}, {os.cpu_count()} CPUs",
        peak_flops=last["peak_flops"],
        start_seconds=history[0]["ended_at"] - history[0]["seconds"] - started + warming,
        step_seconds=means[-1] + nothing,
        stage_seconds=[mean + nothing for mean in means[:-1]],
        checkpoint_seconds=max(0.0, statistics.mean(saved) - nothing),
        evaluation_pass_seconds=last["evaluation_seconds"] / 2,
        end_seconds=max(0.0, ended - last["ended_at"] - last["evaluation_seconds"]),
        state_bytes=int(last["state_bytes"]),
        peak_bytes=int(last["peak_bytes"]),
    )
