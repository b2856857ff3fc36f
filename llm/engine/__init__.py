"""Inference: one interface (`base.Engine`), and the backend that is always there (torch)."""

from __future__ import annotations

from pathlib import Path

from llm.engine.base import Completion, Engine, Sampling

__all__ = ["Completion", "Engine", "Sampling", "load_engine"]


def load_engine(folder: str | Path, *, device: str = "auto", threads: int | None = None) -> Engine:
    """Open a Hugging Face model folder (config, safetensors, tokenizer) for inference."""
    from llm.engine.torch_engine import TorchEngine

    return TorchEngine.load(folder, device=device, threads=threads)
