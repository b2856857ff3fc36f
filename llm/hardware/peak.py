"""Peak FLOP/s of one worker: the reference for MFU.

From the makers' data sheets for data-centre GPUs (dense 16-bit matrix units); elsewhere the measured rate
of a short square matrix product, in the precision and with the threads of training.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from headwater.llm.hardware.machines import read_table
from headwater.llm.hardware.precision import torch_dtype

if TYPE_CHECKING:
    import torch

OTHERS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "L40": 181e12,
    "A10G": 70e12,
    "A10": 125e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}
"""GPUs that hardware.yaml lacks: part of the name → dense FLOP/s in bf16 (fp16 before Ampere)."""
SECONDS = 0.15
"""How long a product is repeated for a measurement; the fastest one counts."""


def known(name: str) -> float | None:
    """The data sheet's value for a GPU, by the longest matching name; None if unknown."""
    figures = OTHERS | {gpu: row.peak_tflops * 1e12 for gpu, row in read_table().items()}
    fitting = [part for part in figures if part.replace(" ", "") in name.replace(" ", "")]
    return figures[max(fitting, key=len)] if fitting else None


def measured(dtype: torch.dtype, device: torch.device, side: int = 1024) -> float:
    """FLOP/s of the fastest of several products of two `side` × `side` matrices."""
    import torch

    left, right = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + SECONDS
    for number in range(1000):
        started = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        finished = time.perf_counter()
        if number:  # the first one includes kernel setup
            best = min(best, finished - started)
            if finished > end:
                break
    return 2 * side**3 / best


def peak(precision: Literal["fp32", "bf16", "fp16"], device: torch.device) -> float:
    """FLOP/s of one worker in a training precision (`bf16`, `fp16`, `fp32`)."""
    import torch

    if device.type == "cuda" and precision != "fp32":
        figure = known(torch.cuda.get_device_name(device))
        if figure is not None:
            return figure
    return measured(torch_dtype(precision), device)
