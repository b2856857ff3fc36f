"""Small models for tests, created on demand."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.data_pipeline.tokens.tokenizer import save_tokenizer
from headwater.llm.inference.torch_engine import TorchEngine
from headwater.llm.model.build import initialise
from headwater.llm.model.shape import ModelConfig, hf_config
from tests.llm.chat_tokenizer import chat_tokenizer

SMALL = ModelConfig(depth=2, width=64, context=256)


@functools.cache
def small_model(seed: int = 0) -> torch.nn.Module:
    """Two layers of 64, weights large enough that its choices are far apart."""
    tokenizer = chat_tokenizer()
    model = initialise(hf_config(SMALL, len(tokenizer), tokenizer), seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model


def small_engine(seed: int = 0) -> TorchEngine:
    return TorchEngine(small_model(seed), chat_tokenizer())


def save_model(folder: Path, model: torch.nn.Module | None = None) -> Folder:
    """A Hugging Face folder `model/` in an artifact at `folder`."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (model or small_model()).save_pretrained(folder / "model")  # type: ignore[operator]
    save_tokenizer(chat_tokenizer(), folder / "model")
    return Folder(Artifact(str(folder)), "model")
