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
from headwater.llm.training.losses.objectives import Objective

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


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Values of this host on a device, without waiting for a GPU's earlier work (a copy from pageable memory
    would)."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


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
    """Per rank: seconds of its own computation in the step before, then the values it sent."""
    own_seconds: float = 0.0
    """Seconds of this rank's own computation in its last step."""

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """The values of all ranks, in rank order."""
        return self.gathered(values).tolist()

    def gathered(self, values: Sequence[float], held: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """The values of all ranks [ranks, values], and tensors of one value each after them. The process does
        not wait for its GPU, until it reads them."""
        import torch
        import torch.distributed as dist

        own = self._sent(values)
        if held:
            own = torch.cat([own, torch.stack([each.detach().double().reshape(()) for each in held])])
        if self.world_size == 1:
            return own[None]
        everybody = own.new_empty(self.world_size * len(own))
        dist.all_gather_single(everybody, own)
        return everybody.view(self.world_size, -1)

    def _sent(self, values: Sequence[float]) -> torch.Tensor:
        import torch

        return to_device(torch.tensor(values, dtype=torch.float64), self.device)

    def agree(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        import torch.distributed as dist

        box = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(box)
        return box[0]

    def total(self, values: list[float]) -> list[float]:
        """Sums over all ranks."""
        return self.totalled(values).tolist()

    def totalled(self, values: list[float]) -> torch.Tensor:
        """Sums over all ranks; the process does not wait for its GPU, until it reads them."""
        import torch.distributed as dist

        tensor = self._sent(values)
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def changes(self) -> adapters.Changes:
        """What training has changed since the start of the stage; every rank must call it."""
        with zero.gathered(self.engine) as module:
            return adapters.changes(module)
