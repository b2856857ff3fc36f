"""Inference: one interface (`base.Engine`) and the torch engine behind it.

`training`, `rl`, `stages` and `serving` may import it.
Add an engine as a file that implements `base.Engine`, and open it in `load_engine`.
"""

from __future__ import annotations

from pathlib import Path

from headwater.llm.inference.base import Completion, Engine, Sampling

__all__ = ["Completion", "Engine", "Sampling", "load_engine"]


def load_engine(folder: str | Path, *, device: str = "auto", threads: int | None = None) -> Engine:
    """Open a Hugging Face model folder (config, safetensors, tokenizer) for inference."""
    from headwater.llm.inference.torch_engine import TorchEngine

    return TorchEngine.load(folder, device=device, threads=threads)
