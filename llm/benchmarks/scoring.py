"""Answers of a model to the items of benchmarks, by engines on as many workers as the cluster has."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headwater.cluster.runtime.parallel import map_units
from headwater.cluster.runtime.pool import Share
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.benchmarks.encoding import encode, encode_pair, fitted
from headwater.llm.benchmarks.tasks import TASKS, Item
from headwater.llm.inference import Sampling, device_of, load_engine

ITEMS_PER_UNIT = 32
ANSWER_TOKENS = 256
"""Maximum tokens of a generated answer, as in lm-eval."""
ENDS = ("Q:", "</s>", "<|im_end|>")
"""A generated answer ends before these."""


@dataclass(frozen=True)
class Answers:
    """A model's answers to the items of one benchmark, in their order, and what they cost."""

    answers: list[Any]
    """For `Task.judge`."""
    seconds: float
    """Of all workers together, without the loading of the model."""
    tokens: int
    """Read or written; what choices share is counted once."""
    shortened: int
    """Items whose context was cut on the left to fit into the model's."""


def answer(
    session: Session,
    output: Artifact,
    label: str,
    model: Folder,
    items: Mapping[str, Sequence[Item]],
    *,
    gpus: float = 0.0,
) -> dict[str, Answers]:
    """The answers to every benchmark's items. A repeated call continues where `output` has ended.

    The items of a unit have similar lengths, the longest first. Benchmarks with long answers are first.
    """
    orders = {name: _longest_first(some) for name, some in items.items()}
    units: list[dict[str, Any]] = []
    for name in sorted(items, key=lambda name: TASKS[name].kind != "generate"):
        for start in range(0, len(orders[name]), ITEMS_PER_UNIT):
            pairs = [items[name][i].pairs for i in orders[name][start : start + ITEMS_PER_UNIT]]
            units.append({"unit": f"{name}-{start:06d}", "task": name, "pairs": pairs})
    results = map_units(
        session,
        output,
        label,
        units,
        Scorer,
        worker_args={"model": model, "gpus": gpus},
        size=lambda result: len(result["answers"]),
        total=sum(map(len, items.values())),
        unit_name="questions",
        share=Share(cpus=1, gpus=gpus),
    )
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in items}
    for unit, result in zip(units, results, strict=True):
        found[unit["task"]].append(result)
    return {name: _joined(orders[name], parts) for name, parts in found.items()}


def _longest_first(items: Sequence[Item]) -> list[int]:
    return sorted(range(len(items)), key=lambda i: (-len(items[i].pairs[0][0]), i))


def _joined(order: list[int], parts: list[dict[str, Any]]) -> Answers:
    """The answers of units in the order of the items."""
    answers: list[Any] = [None] * len(order)
    for i, each in zip(order, (each for part in parts for each in part["answers"]), strict=True):
        answers[i] = each
    seconds, tokens, shortened = (
        sum(part[key] for part in parts) for key in ("seconds", "tokens", "shortened")
    )
    return Answers(answers, round(seconds, 2), tokens, shortened)


class Scorer:
    """One engine, loaded once per actor."""

    def __init__(self, model: Folder, gpus: float = 0.0) -> None:
        self._engine = load_engine(model.local(), device=device_of(gpus), threads=1)

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        started = time.monotonic()
        work = {"choice": self._choices, "greedy": self._greedy, "generate": self._texts}
        found = work[TASKS[unit["task"]].kind](unit["pairs"])
        return {**found, "seconds": time.monotonic() - started}

    def _choices(self, items: list[list[tuple[str, str]]]) -> dict[str, Any]:
        """The log-likelihood (nats) of every choice."""
        encoded = [[self._pair(*pair) for pair in pairs] for pairs in items]
        flat = [pair for pairs in encoded for pair in pairs]
        logprobs = iter(self._engine.score([p for p, _, _ in flat], [c for _, c, _ in flat]))
        return {
            "answers": [[sum(next(logprobs)) for _ in pairs] for pairs in encoded],
            "tokens": sum(_read(pairs) for pairs in encoded),
            "shortened": sum(any(cut for _, _, cut in pairs) for pairs in encoded),
        }

    def _greedy(self, items: list[list[tuple[str, str]]]) -> dict[str, Any]:
        """Whether the most likely continuation, token for token, is the given one."""
        pairs = [self._pair(*pair) for (pair,) in items]
        most = max(len(continuation) for _, continuation, _ in pairs)
        prompts = [fitted(prompt, most, self._engine.context) for prompt, _, _ in pairs]
        found = self._engine.generate(prompts, Sampling(max_tokens=most, temperature=0.0))
        return {
            "answers": [
                each.ids[: len(wanted)] == wanted for each, (_, wanted, _) in zip(found, pairs, strict=True)
            ],
            "tokens": sum(len(p) for p in prompts) + sum(len(each.ids) for each in found),
            "shortened": sum(cut for _, _, cut in pairs),
        }

    def _texts(self, items: list[list[tuple[str, str]]]) -> dict[str, Any]:
        """The most likely answers, as text."""
        tokenizer = self._engine.tokenizer
        whole = [encode(tokenizer, context) for ((context, _),) in items]
        prompts = [fitted(prompt, ANSWER_TOKENS, self._engine.context) for prompt in whole]
        found = self._engine.generate(prompts, Sampling(max_tokens=ANSWER_TOKENS, temperature=0.0))
        texts = [str(tokenizer.decode(each.ids, skip_special_tokens=True)) for each in found]
        return {
            "answers": [until(text) for text in texts],
            "tokens": sum(len(p) for p in prompts) + sum(len(each.ids) for each in found),
            "shortened": sum(len(p) < len(w) for p, w in zip(prompts, whole, strict=True)),
        }

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int], bool]:
        """Ids of context and continuation, and whether the context was cut."""
        whole, after = encode_pair(self._engine.tokenizer, context, continuation)
        prompt = fitted(whole, len(after), self._engine.context)
        return prompt, after, len(prompt) < len(whole)


def until(text: str) -> str:
    """A generated answer up to the first of `ENDS`."""
    return text[: min((place for end in ENDS if (place := text.find(end)) >= 0), default=len(text))]


def _read(pairs: list[tuple[list[int], list[int], bool]]) -> int:
    """Tokens of an item; a context that several choices share counts once."""
    return sum(map(len, {tuple(prompt) for prompt, _, _ in pairs})) + sum(len(after) for _, after, _ in pairs)
