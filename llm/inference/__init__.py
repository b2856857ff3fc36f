"""Inference: one interface (`base.Engine`) and the torch engine behind it.

`training`, `rl`, `stages` and `serving` may import it.
Add an engine as a file that implements `base.Engine`, and open it in `load_engine`.
"""

from __future__ import annotations

from pathlib import Path

from headwater.llm.inference.base import Completion, Engine, Sampling

__all__ = ["Completion", "Engine", "Sampling", "device_of", "load_engine"]


def device_of(gpus: float) -> str:
    """Where one who has reserved so many GPUs computes."""
    return "cuda" if gpus else "cpu"


def load_engine(folder: str | Path, *, device: str = "cpu", threads: int | None = None) -> Engine:
    """Open a Hugging Face model folder (config, safetensors, tokenizer) for inference.

    `device` is `device_of` what was reserved: GPUs may be visible to a process that has reserved none."""
    from headwater.llm.inference.torch_engine import TorchEngine

    return TorchEngine.load(folder, device=device, threads=threads)
