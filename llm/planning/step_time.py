"""Seconds of a training step on GPUs: passes, exchange between the workers, and an optimizer on the host.

They are added up: how much of the exchange `zero.overlap_comm` hides has not been measured. The bytes that a
worker exchanges are those of Rajbhandari et al. 2019, section 7; what an offloaded optimizer moves, of Ren et
al. 2021, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from headwater.llm.hardware.machines import Machine
from headwater.llm.planning.memory import ELEMENT_BYTES

ADAM_BYTES = 30
"""Host memory traffic of Adam per parameter: weights, two moments and gradient are read (16), weights and
moments written (12), and the 16-bit weights (2)."""
HOST_BYTES_PER_SECOND = 100e9
"""Assumed memory bandwidth of a node's CPUs in the optimizer's step."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step."""

    passes: float
    exchange: float
    offload: float

    @property
    def seconds(self) -> float:
        return self.passes + self.exchange + self.offload


def exchanged_bytes(
    stage: int, parameters: int, element: int, accumulation: int, workers: int, gradient: int | None = None
) -> float:
    """Bytes that each worker sends, and receives, in a step with so many micro-batches.

    Gradients are reduced to their owners, and weights gathered from them: one model each. Stage 2 reduces
    after each micro-batch, stage 3 also gathers for its forward and its backward pass. An element of the
    weights has `element` bytes, of the gradients `gradient` (default: the same); stage 0 gathers gradients.
    """
    reduced = gradient or element
    bytes_each = {
        0: 2 * reduced,
        1: reduced + element,
        2: accumulation * reduced + element,
        3: accumulation * (reduced + 2 * element),
    }[stage]
    return bytes_each * parameters * (workers - 1) / workers


def step_time(
    machine: Machine,
    *,
    parameters: int,
    precision: str,
    stage: int,
    offload: bool,
    accumulation: int,
    flops: float,
    mfu: float,
    gradients: str | None = None,
) -> StepTime:
    """A step of `flops` on the worker with the largest share, whose passes reach `mfu` of the peak.

    `gradients` is the number format in which they are exchanged, by default `precision`. With `offload` each
    micro-batch's gradients go to the host, which updates the weights and sends them back.
    """
    workers, element = machine.count, ELEMENT_BYTES[precision]
    reduced = ELEMENT_BYTES[gradients or precision]
    sent = exchanged_bytes(stage, parameters, element, accumulation, workers, reduced)
    moved = held = 0.0
    if offload:
        moved = (accumulation + 1) * element * parameters / workers / (1e9 * machine.gpu.host_link_gb_s)
        held = ADAM_BYTES * parameters / workers * min(workers, machine.gpu.gpus_per_node)
    return StepTime(
        passes=flops / (1e12 * machine.gpu.peak_tflops * mfu),
        exchange=sent / machine.exchange_bytes,
        offload=moved + held / HOST_BYTES_PER_SECOND,
    )
