"""Complete many prompts with engines on as many CPUs or GPUs as the cluster has or can add."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from headwater.cluster.runtime.pool import Share, map_pool
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Folder
from headwater.data_pipeline.tokens.tokenizer import load_tokenizer
from headwater.llm.examples.chat import decode_answer, encode_prompt
from headwater.llm.examples.conversations import Conversation
from headwater.llm.inference import device_of, load_engine
from headwater.llm.inference.base import Completion, Sampling
from headwater.llm.rows.permutation import derived_seed

LARGEST_CALL, SMALLEST_CALL = 64, 8
"""Prompts per call."""
SHARE_OF_REST = 8
"""A call takes this part of the prompts that are left: large calls first, small ones at the end."""


def generate(
    session: Session,
    label: str,
    model: Folder,
    prompts: list[list[int]],
    sampling: Sampling,
    *,
    gpus: float = 0.0,
) -> list[Completion]:
    """Completions in the prompts' order. Deterministic for a seed, on any cluster size.

    Each prompt has a seed of its own. A call takes prompts of similar length. Long ones come first and calls
    become smaller, so that no worker has much left when the others are done.

    `gpus` is reserved per engine without checking the cluster first: GPU nodes may join when there is work.
    """
    share = Share(cpus=1, gpus=gpus)
    rows: list[dict[str, Any]] = [
        {"numbers": numbers, "prompts": [prompts[number] for number in numbers]} for numbers in calls(prompts)
    ]
    found: dict[int, Completion] = {}
    arguments = {"model": model, "sampling": sampling, "gpus": gpus}
    with session.progress(label, len(prompts), "prompts") as shown:
        for result in map_pool(session, rows, _Completer, arguments, share):
            for number, completion in zip(result["numbers"], result["completions"], strict=True):
                found[number] = Completion(**completion)
            shown.advance(len(result["completions"]))
    return [found[number] for number in range(len(prompts))]


def calls(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The prompts' numbers, call by call."""
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    found = []
    while order:
        size = min(LARGEST_CALL, max(SMALLEST_CALL, len(order) // SHARE_OF_REST))
        found.append(order[:size])
        order = order[size:]
    return found


def answer(
    session: Session, label: str, model: Folder, prompts: Sequence[Conversation], sampling: Sampling
) -> list[str]:
    """The texts that a model answers conversations with. A prompt too long for its context is shortened."""
    folder = model.local()
    tokenizer = load_tokenizer(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    room = max(1, int(config["max_position_embeddings"]) - sampling.max_tokens)
    encoded = [encode_prompt(tokenizer, prompt, room) for prompt in prompts]
    completions = generate(session, label, model, encoded, sampling)
    return [decode_answer(tokenizer, completion.ids) for completion in completions]


class _Completer:
    """One engine, loaded once per actor."""

    def __init__(self, model: Folder, sampling: Sampling, gpus: float) -> None:
        self._engine = load_engine(model.local(), device=device_of(gpus), threads=1)
        self._sampling = sampling

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        seed = self._sampling.seed
        seeds = None if seed is None else [derived_seed(seed, number) for number in row["numbers"]]
        completions = self._engine.generate(row["prompts"], self._sampling, seeds)
        return {"numbers": row["numbers"], "completions": [asdict(completion) for completion in completions]}
