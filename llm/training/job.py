"""The interface between a training stage and the loop: job, batch source, worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.model import adapters
from headwater.llm.training import zero
from headwater.llm.training.config import TrainConfig
from headwater.llm.training.objectives import Objective

if TYPE_CHECKING:
    import numpy as np
    import torch

T = TypeVar("T")


class StopTraining(HeadwaterError):
    """A stop that all ranks reach at the same step; a restart would only repeat it."""


class BatchSource(Protocol):
    """Source of batches. Pickled to every worker; `open` runs there once."""

    def open(self, worker: Worker) -> None: ...

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This worker's share of the step's global batch; the first axis is sequences."""
        ...

    def metrics(self) -> dict[str, float]:
        """Additional metrics for the step's record (equal on all ranks)."""
        ...

    # Optional: `describe(step) -> list[str]`, the documents of the step's global batch.


@dataclass(frozen=True)
class Start:
    """The kept checkpoint of another artifact that a job goes on from."""

    artifact: Artifact
    step: int


@dataclass
class TrainJob:
    """Everything a worker needs, sent to it once."""

    label: str
    config: TrainConfig
    objective: Objective
    source: BatchSource
    load_model: Callable[[], torch.nn.Module]
    """Builds the starting model, equal on every rank; it may have no values yet (`llm/model/origins.py`)."""
    tokenizer: Folder
    """Tokenizer files to copy next to the exported model."""
    output: Artifact
    evaluate: Callable[[Worker], dict[str, float]] | None = None
    """Called on every rank every `evaluate_every` steps and at the end; returns the same on all ranks."""
    judged_by: str | None = None
    """Metric of `evaluate` that ranks checkpoints (`keep_best`): lower is better; with a `-` before its name,
    higher is better."""
    check: Callable[[int, Mapping[str, float]], None] | None = None
    """Called on every rank with a step and the objective's metrics of it, before the weights change; raises
    StopTraining if they show a mistake."""
    keep: frozenset[int] = frozenset()
    """Steps whose checkpoint stays with the finished artifact."""
    start: Start | None = None
    """The checkpoint of another artifact to begin with, in place of `load_model`'s weights and step 0."""
    board: Any = None


@dataclass
class Worker:
    """One rank's view of a running job, for sources and evaluations."""

    rank: int
    world_size: int
    engine: Any
    device: torch.device
    history: list[dict[str, float]] = field(default_factory=list)
    copies: int = 1
    """Adjacent ranks that compute the same rows together (`llm.training.parallel.tensor`)."""
    peak: float = 0.0
    """Peak FLOP/s of all ranks together; 0 if unknown (no MFU)."""
    say: Callable[[str], Any] = print
    """Prints a line on the user's screen."""
    tell: Callable[[], Sequence[float]] = tuple
    """Values that this rank sends to the others with each step's totals."""
    heard: list[list[float]] = field(default_factory=list)
    """Per rank: seconds of its own computation, then the values it sent."""

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """The values of all ranks, in rank order."""
        import torch
        import torch.distributed as dist

        own = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.world_size == 1:
            return [own.tolist()]
        everybody = own.new_empty(self.world_size * len(values))
        dist.all_gather_single(everybody, own)
        return everybody.view(self.world_size, -1).tolist()

    def agree(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        import torch.distributed as dist

        box = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(box)
        return box[0]

    def total(self, values: list[float]) -> list[float]:
        """Sums over all ranks."""
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor.tolist()

    def changes(self) -> adapters.Changes:
        """What training has changed since the start of the stage; every rank must call it."""
        with zero.gathered(self.engine) as module:
            return adapters.changes(module)
