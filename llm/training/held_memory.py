"""Bytes held by a training engine, and peak memory of a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.llm.training.undocumented import deepspeed_internals as internals

if TYPE_CHECKING:
    from headwater.llm.training.loop import Worker


@dataclass(frozen=True)
class StateBytes:
    """Training state of one worker between two micro-batches of a step, in bytes."""

    parameters: int
    gradients: int
    optimizer: int
    """The moments, and the fp32 copy of the weights if the model itself is not fp32."""
    host: int = 0
    """The part that is offloaded to the memory, or a disk, of a GPU's host."""

    @property
    def device(self) -> int:
        """Bytes on the compute device."""
        return self.parameters + self.gradients + self.optimizer - self.host

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer


def state_bytes(engine: Any) -> tuple[StateBytes, set[int]]:
    """Bytes held by a DeepSpeed engine, each memory block counted once; and the blocks' addresses."""
    seen: set[int] = set()
    parameters, gradients, held = (
        count_bytes(tensors, seen)
        for tensors in (
            _parameters(engine),
            internals.held_gradients(engine),
            _optimizer_tensors(engine),
        )
    )
    return StateBytes(parameters, gradients, held), seen


def count_bytes(tensors: Iterable[Any], seen: set[int]) -> int:
    """Bytes of the tensors' memory blocks that are not in `seen`, to which they are added."""
    total = 0
    for tensor in tensors:
        if tensor is None or tensor.device.type == "meta":
            continue
        storage = tensor.untyped_storage()
        if storage.data_ptr() and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total


def _parameters(engine: Any) -> Iterator[Any]:
    for parameter in engine.module.parameters():
        yield parameter.data
        yield internals.part_values(parameter)


def _optimizer_tensors(engine: Any) -> Iterator[Any]:
    import torch

    yield from internals.fp32_copies(engine)
    for state in internals.inner_optimizer(engine).state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))


class WithMemory:
    """Adds memory to a training job's evaluation: the maximum over workers, in bytes.

    `state_bytes` is the parameters and optimizer state held by the engine; `peak_bytes` is the process's peak
    resident memory, or on a GPU the peak allocated there.
    """

    def __init__(self, evaluate: Callable[[Worker], dict[str, float]]) -> None:
        self.evaluate = evaluate

    def __call__(self, worker: Worker) -> dict[str, float]:
        state, _ = state_bytes(worker.engine)
        figures = self.evaluate(worker)
        own = [float(state.parameters + state.optimizer), float(peak_bytes(worker))]
        states, peaks = zip(*worker.gather(own), strict=True)
        return figures | {"state_bytes": max(states), "peak_bytes": max(peaks)}


def peak_bytes(worker: Worker) -> int:
    """Peak memory of this worker: allocated on its GPU, else resident in its process."""
    import torch

    if worker.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(worker.device))
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import psutil  # type: ignore[import-untyped]

    return int(psutil.Process().memory_info().rss)
