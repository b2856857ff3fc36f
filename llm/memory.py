"""Bytes of training state on one worker: by the formulas of ZeRO, and as an engine really holds them.

The formulas are those of Rajbhandari et al. 2019 (sections 3 and 5): with Ψ parameters of b bytes and N
workers, parameters cost bΨ, gradients bΨ, the optimizer its fp32 copy of the weights and its moments (12
bytes a parameter with AdamW); stage 1 divides the last by N, stage 2 the gradients too, stage 3 all. What
they leave out and DeepSpeed does is counted as well: padding, matrices that lie on the border of two
workers, and Muon, which keeps one moment of the hidden matrices instead of two, whole where it needs whole
matrices.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.checkpoint import inner_optimizer
from llm.zero import Optimizer, ZeroConfig

if TYPE_CHECKING:
    import torch

    from llm.trainer import Worker

FP32 = 4
ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Weight:
    """One trained tensor of a model."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements."""
        size = 1
        for side in self.shape:
            size *= side
        return size

    @property
    def hidden(self) -> bool:
        """Whether Muon updates it: a matrix that is neither embedding nor head (DeepSpeed's own rule)."""
        return len(self.shape) >= 2 and not any(word in self.name.lower() for word in ("embed", "lm_head"))

    @property
    def lookup(self) -> bool:
        """Whether tokens are looked up in it: it has a learning rate of its own, and so a group."""
        return self.name.endswith("embed_tokens.weight")


@dataclass(frozen=True)
class StateBytes:
    """What one worker keeps between two micro-batches of a step, in bytes."""

    parameters: int
    gradients: int
    optimizer: int
    """The fp32 copy of the weights, where there is one besides the model's, and the moments."""
    host: int = 0
    """As much of it as lies in the memory, or on a disk, of a GPU's host (offload)."""

    @property
    def device(self) -> int:
        """Bytes on the device that computes."""
        return self.parameters + self.gradients + self.optimizer - self.host

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer


def weights_of(model: torch.nn.Module) -> list[Weight]:
    """The trained tensors of a model (one on the meta device will do), tied ones once."""
    return [Weight(name, tuple(p.shape)) for name, p in model.named_parameters() if p.requires_grad]


def state_formula(
    weights: Sequence[Weight],
    zero: ZeroConfig,
    *,
    world_size: int,
    precision: str,
    optimizer: Optimizer,
    rank: int = 0,
) -> StateBytes:
    """What a rank keeps. `precision` is fp32, bf16 or fp16."""
    rules = (_replicated, _partitioned_groups, _partitioned_groups, _partitioned_parameters)
    state = rules[zero.stage](weights, zero.stage, world_size, ELEMENT_BYTES[precision], optimizer, rank)
    # Ren et al. 2021: fp32 weights and moments lie with the host, and the gradients for them; with parameters
    # offloaded (Rajbhandari et al. 2021) those as well, of which the device has what a layer needs.
    part = host = 0
    if zero.offload_optimizer != "none":
        part = FP32 * (sum(weight.size for weight in weights) // world_size)
        host = state.optimizer + part
    if zero.offload_parameters != "none":
        host += state.parameters
    return StateBytes(state.parameters, state.gradients + part, state.optimizer, host)


def largest_state(
    weights: Sequence[Weight], zero: ZeroConfig, *, world_size: int, precision: str, optimizer: Optimizer
) -> StateBytes:
    """The state of the worker that keeps most."""
    every = (
        state_formula(
            weights, zero, world_size=world_size, precision=precision, optimizer=optimizer, rank=rank
        )
        for rank in (range(world_size) if zero.stage in (1, 2) else [0])
    )
    return max(every, key=lambda state: state.total)


def groups_of(weights: Sequence[Weight], optimizer: Optimizer) -> list[list[Weight]]:
    """The optimizer's groups (`zero.initialise_engine`); ZeRO 1 and 2 make one flat vector of each."""
    lookup = [weight for weight in weights if weight.lookup]
    matrices = [weight for weight in weights if len(weight.shape) >= 2 and not weight.lookup]
    vectors = [weight for weight in weights if len(weight.shape) < 2]
    if optimizer == "muon":
        groups = [[w for w in matrices if w.hidden], [w for w in matrices if not w.hidden], lookup, vectors]
    else:
        groups = [matrices, lookup, vectors]
    return [group for group in groups if group]


def touched(group: Sequence[Weight], part: int, rank: int) -> int:
    """Elements of the whole tensors that a rank's stretch of `part` elements touches."""
    low, high = part * rank, part * (rank + 1)
    ends = itertools.accumulate(weight.size for weight in group)
    return sum(w.size for w, end in zip(group, ends, strict=True) if low < end and end - w.size < high)


def _moments(group: Sequence[Weight], optimizer: Optimizer) -> int:
    return 1 if optimizer == "muon" and group[0].hidden else 2


def _replicated(
    weights: Sequence[Weight], stage: int, world_size: int, element: int, optimizer: Optimizer, rank: int
) -> StateBytes:
    size = sum(weight.size for weight in weights)
    moments = sum(
        _moments(group, optimizer) * sum(weight.size for weight in group)
        for group in groups_of(weights, optimizer)
    )
    copy = 0 if element == FP32 else size
    return StateBytes(element * size, element * size, FP32 * (copy + moments))


def _partitioned_groups(
    weights: Sequence[Weight], stage: int, world_size: int, element: int, optimizer: Optimizer, rank: int
) -> StateBytes:
    parameters = gradients = held = 0
    for group in groups_of(weights, optimizer):
        size = sum(weight.size for weight in group)
        part = 2 * -(-size // (2 * world_size))  # DeepSpeed aligns parts to two elements
        whole = touched(group, part, rank)
        parameters += element * part * world_size
        gradients += element * (whole if stage == 2 else size)
        held += FP32 * part
        if _moments(group, optimizer) == 1:  # in the gradient's type, of all that the update needs
            held += element * whole
        else:
            held += 2 * FP32 * part
    return StateBytes(parameters, gradients, held)


def _partitioned_parameters(
    weights: Sequence[Weight], stage: int, world_size: int, element: int, optimizer: Optimizer, rank: int
) -> StateBytes:
    parameters = held = 0
    for group in groups_of(weights, optimizer):
        part = sum(-(-weight.size // world_size) for weight in group)
        parameters += element * part
        held += FP32 * part
        held += element * part if _moments(group, optimizer) == 1 else 2 * FP32 * part
    return StateBytes(parameters, parameters, held)


def state_bytes(engine: Any) -> tuple[StateBytes, set[int]]:
    """What a DeepSpeed engine holds, every block of memory once; and those blocks' addresses."""
    seen: set[int] = set()
    parameters, gradients, held = (
        _count(tensors, seen)
        for tensors in (_parameters(engine), _gradients(engine), _optimizer_tensors(engine))
    )
    return StateBytes(parameters, gradients, held), seen


def other_bytes(seen: set[int]) -> int:
    """Bytes of all live tensors whose blocks are not among those: what `state_bytes` did not find."""
    import torch

    return _count((found for found in gc.get_objects() if issubclass(type(found), torch.Tensor)), seen)


def _count(tensors: Iterable[Any], seen: set[int]) -> int:
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
        yield getattr(parameter, "ds_tensor", None)


def _gradients(engine: Any) -> Iterator[Any]:
    optimizer = engine.optimizer
    for parameter in engine.module.parameters():
        yield parameter.grad
        yield getattr(parameter, "grad_accum", None)
    for name in ("averaged_gradients", "all_grad_tensors"):
        for held in getattr(optimizer, name, {}).values():
            yield from held or ()
    yield getattr(optimizer, "grad_partitions_flat_buffer", None)
    for copy in _fp32_copies(optimizer):
        yield copy.grad


def _fp32_copies(optimizer: Any) -> Iterator[Any]:
    yield from getattr(optimizer, "single_partition_of_fp32_groups", ())  # ZeRO 1 and 2
    yield from getattr(optimizer, "fp32_partitioned_groups_flat", ())  # ZeRO 3
    for group in getattr(optimizer, "fp32_groups", ()):  # a 16-bit model without ZeRO
        yield from group


def _optimizer_tensors(engine: Any) -> Iterator[Any]:
    import torch

    yield from _fp32_copies(engine.optimizer)
    for state in inner_optimizer(engine).state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))


class WithMemory:
    """An evaluation of a training job that also reports memory, of the worker that has most (bytes).

    `state_bytes` are the parameters and optimizer state that its engine holds, `peak_bytes` the most that its
    process has had resident (its GPU, where there is one, had allocated).
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
    """The most memory that this worker has had: of its GPU, else resident in its process."""
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
