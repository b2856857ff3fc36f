"""Bytes of training state on one worker: ZeRO's formulas, corrected for what DeepSpeed really allocates.

The formulas are those of Rajbhandari et al. 2019 (sections 3 and 5): with Ψ parameters of b bytes and N
workers, parameters cost bΨ, gradients bΨ, and the optimizer its fp32 weights and moments (12 bytes per
parameter with AdamW). Stage 1 divides the last by N, stage 2 also the gradients, stage 3 everything. Also
counted: padding, matrices that straddle two workers, and Muon, which keeps one moment of the hidden matrices
instead of two, of whole matrices where it needs them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from headwater.llm.model.shape import Weight
from headwater.llm.training.held_memory import StateBytes
from headwater.llm.training.zero_config import Optimizer, ZeroConfig

FP32 = 4
ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


def state_formula(
    weights: Sequence[Weight],
    zero: ZeroConfig,
    *,
    world_size: int,
    precision: str,
    optimizer: Optimizer,
    rank: int = 0,
) -> StateBytes:
    """The state of one rank. `precision` is fp32, bf16 or fp16."""
    groups, element = groups_of(weights, optimizer), ELEMENT_BYTES[precision]
    kept = element  # bytes of an element of the gradients on the device
    if zero.offload_optimizer == "none":
        kept = ELEMENT_BYTES[zero.gradient_types(precision, optimizer).kept]
    if zero.stage == 0:
        state = _replicated(groups, element, optimizer)
    elif zero.stage == 3:
        shared = element == FP32 and "none" == zero.offload_optimizer == zero.offload_parameters
        state = _partitioned_parameters(groups, element, kept, optimizer, world_size, 0 if shared else FP32)
        copies = sum(weight.size for weight in weights) // zero.hpz_partition_size
        whole = sum(weight.size for weight in weights if weight.size < zero.persist_below)
        more = element * ((copies if zero.hpz_partition_size > 1 else 0) + whole)
        state = replace(state, parameters=state.parameters + more)
    else:
        state = _partitioned_groups(groups, element, kept, optimizer, world_size, rank, stage=zero.stage)
    # Ren et al. 2021: fp32 weights, moments and gradients lie in host memory. With parameters offloaded
    # (Rajbhandari et al. 2021) those as well: the device holds only what a layer needs.
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
    """The state of the worker that holds most."""
    every = (
        state_formula(
            weights, zero, world_size=world_size, precision=precision, optimizer=optimizer, rank=rank
        )
        for rank in (range(world_size) if zero.stage in (1, 2) else [0])
    )
    return max(every, key=lambda state: state.total)


def groups_of(weights: Sequence[Weight], optimizer: Optimizer) -> list[list[Weight]]:
    """The optimizer's groups (`zero.initialise_engine`); ZeRO 1 and 2 flatten each into one vector."""
    lookup = [weight for weight in weights if weight.lookup]
    matrices = [weight for weight in weights if len(weight.shape) >= 2 and not weight.lookup]
    vectors = [weight for weight in weights if len(weight.shape) < 2]
    if optimizer == "muon":
        groups = [[w for w in matrices if w.hidden], [w for w in matrices if not w.hidden], lookup, vectors]
    else:
        groups = [matrices, lookup, vectors]
    return [group for group in groups if group]


def touched(group: Sequence[Weight], part: int, rank: int) -> int:
    """Elements of the whole tensors that overlap a rank's stretch of `part` elements."""
    low, high = part * rank, part * (rank + 1)
    ends = itertools.accumulate(weight.size for weight in group)
    return sum(w.size for w, end in zip(group, ends, strict=True) if low < end and end - w.size < high)


def moments_of(group: Sequence[Weight], optimizer: Optimizer) -> int:
    return 1 if optimizer == "muon" and group[0].hidden else 2


def _replicated(groups: list[list[Weight]], element: int, optimizer: Optimizer) -> StateBytes:
    size = moments = 0
    for group in groups:
        own = sum(weight.size for weight in group)
        size += own
        moments += moments_of(group, optimizer) * own
    copy = 0 if element == FP32 else size
    return StateBytes(element * size, element * size, FP32 * (copy + moments))


def _partitioned_groups(
    groups: list[list[Weight]],
    element: int,
    kept: int,
    optimizer: Optimizer,
    world_size: int,
    rank: int,
    *,
    stage: int,
) -> StateBytes:
    """`kept`: bytes of an element of the gradients; at stage 1 every rank has all of these."""
    parameters = gradients = held = 0
    for group in groups:
        size = sum(weight.size for weight in group)
        part = 2 * -(-size // (2 * world_size))  # DeepSpeed aligns parts to two elements
        overlapped = touched(group, part, rank)
        parameters += element * part * world_size
        muon = moments_of(group, optimizer) == 1  # in the gradient's type, for every touched matrix
        compact = kept != element and not muon  # DeepSpeed then keeps the rank's stretch alone
        gradients += kept * (size if stage == 1 else part if compact else overlapped)
        held += FP32 * part + (kept * overlapped if muon else 2 * FP32 * part)
    return StateBytes(parameters, gradients, held)


def _partitioned_parameters(
    groups: list[list[Weight]], element: int, kept: int, optimizer: Optimizer, world_size: int, copy: int
) -> StateBytes:
    """`copy`: bytes of an element of the fp32 weights apart from the parameters."""
    parameters = gradients = held = 0
    for group in groups:
        part = sum(-(-weight.size // world_size) for weight in group)
        parameters += element * part
        gradients += kept * part
        held += copy * part + (kept if moments_of(group, optimizer) == 1 else 2 * FP32) * part
    return StateBytes(parameters, gradients, held)
