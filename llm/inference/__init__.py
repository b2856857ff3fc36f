"""Inference: one interface (`base.Engine`) and the torch engine that implements it.

`training`, `rl`, `stages` and `serving` may import it.
Add an engine as a file that implements `base.Engine`, and open it in `load_engine`.
"""

from __future__ import annotations

from pathlib import Path

from headwater.llm.inference.base import Completion, Engine, Sampling

__all__ = ["Completion", "Engine", "Sampling", "device_of", "load_engine"]


def device_of(gpus: float) -> str:
    """The compute device for a number of reserved GPUs."""
    return "cuda" if gpus else "cpu"


def load_engine(folder: str | Path, *, device: str = "cpu", threads: int | None = None) -> Engine:
    """Open a Hugging Face model folder (config, safetensors, tokenizer) for inference.

    Pass `device_of` the reserved GPUs as `device`: a process may see GPUs it has not reserved."""
    from headwater.llm.inference.torch_engine import TorchEngine

    return TorchEngine.load(folder, device=device, threads=threads)
