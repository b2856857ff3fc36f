"""The number format of training: fp32, bf16 or fp16, and which one the hardware multiplies natively."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch


Precision = Literal["auto", "fp32", "bf16", "fp16"]


def torch_dtype(precision: str) -> torch.dtype:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def resolve_precision(precision: Precision, gpus: float = 0.0) -> Literal["fp32", "bf16", "fp16"]:
    """`auto` becomes bf16 if the hardware multiplies it natively (fp16 on older GPUs), else fp32.

    `gpus` is the number of GPUs per worker.
    """
    import torch

    if precision != "auto":
        return precision
    if gpus and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "bf16" if "avx512_bf16" in flags or "amx_bf16" in flags else "fp32"
