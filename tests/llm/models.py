"""Small models for tests, created on demand."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.data_pipeline.tokens.tokenizer import save_tokenizer
from headwater.llm.inference.torch_engine import TorchEngine
from headwater.llm.model.build import initialise
from headwater.llm.model.shape import ModelConfig, hf_config
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.examples.template_tokenizers import family

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


def foreign_model(folder: Path, kind: str, seed: int = 0) -> Artifact:
    """An artifact with a small model of another family at `folder`: `llama` with SmolLM2's template and
    tokenizer rule, or `qwen2` with biases and Headwater's tokenizer."""
    tokenizer = family("smollm2") if kind == "llama" else chat_tokenizer()
    config = AutoConfig.for_model(
        kind,
        vocab_size=448,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=kind == "llama",
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).float()
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(4)
            elif name.endswith("bias"):
                parameter.data.normal_()
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return Artifact(str(folder), "sft", "0123456789abcdef")


def small_engine(seed: int = 0) -> TorchEngine:
    return TorchEngine(small_model(seed), chat_tokenizer())


def save_model(folder: Path, model: torch.nn.Module | None = None) -> Folder:
    """A Hugging Face folder `model/` in an artifact at `folder`."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (model or small_model()).save_pretrained(folder / "model")  # type: ignore[operator]
    save_tokenizer(chat_tokenizer(), folder / "model")
    return Folder(Artifact(str(folder)), "model")
