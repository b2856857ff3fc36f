"""An untrained model for `base.fresh`, with a tokenizer trained on the text of a task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from headwater.data_pipeline.tokens.chat_template import SPECIAL_TOKENS
from headwater.data_pipeline.tokens.tokenizer import save_tokenizer, train, wrap
from headwater.llm.model.build import initialise
from headwater.llm.model.shape import ModelConfig, hf_config
from headwater.llm.rl.rewards.made_tasks import TASKS, check_name, made_tasks

SETTING = "base.fresh.task"
FRESH_WEIGHTS = 2
"""Raised when a seed gives other weights."""


class FreshConfig(ModelConfig):
    """An untrained model, for tasks that need no corpus: its task, and its shape."""

    task: str
    """Task whose text the tokenizer is trained on, without the held-out tenth: as `sft.task`."""
    vocab_size: int = Field(512, ge=256 + len(SPECIAL_TOKENS), le=1 << 20)
    """Maximum number of ids: all bytes, the special tokens, frequent pieces of words. A digit is a token."""
    seed: int = Field(0, ge=0)
    """Seed of the weights."""

    @field_validator("task")
    @classmethod
    def _known(cls, name: str) -> str:
        check_name(name, TASKS)
        return name


def write_fresh(config: FreshConfig, folder: Path) -> None:
    """Write the model and its tokenizer as a Hugging Face folder."""
    tokenizer = wrap(train(_texts(config.task), config.vocab_size, min_frequency=2))
    shape = hf_config(config, len(tokenizer), tokenizer)
    model: Any = initialise(shape, config.seed, zero_outputs=config.zero_outputs)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def _texts(task: str) -> Iterator[str]:
    """Every message of the tasks to train on, and the name of who said it, which the chat template spells."""
    for made in made_tasks(task, SETTING)["train"]:
        for message in [*made.prompt, {"role": "assistant", "content": made.reference}]:
            yield from (message["role"], message["content"])
