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
from headwater.llm.rl.rewards import sandbox

ITEMS_PER_UNIT = 32
ANSWER_TOKENS = 256
"""Maximum tokens of a generated answer, as in lm-eval."""
ENDS = ("Q:", "</s>", "<|im_end|>")
"""A generated answer ends before these."""
CODE_TOKENS = 1024
CODE_ENDS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""The same of code, as in lm-eval's `humaneval`."""
LOOK_EVERY = 16
"""Tokens after which an answer is searched for its end."""
LIMITS = sandbox.Limits(seconds=10.0)
"""Of a program with its tests; lm-eval allows it 3 seconds, in which a busy machine may fail a right one."""


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
    for name in sorted(items, key=lambda name: TASKS[name].kind not in ("code", "generate")):
        for start in range(0, len(orders[name]), ITEMS_PER_UNIT):
            chosen = [items[name][i] for i in orders[name][start : start + ITEMS_PER_UNIT]]
            unit: dict[str, Any] = {"unit": f"{name}-{start:06d}", "task": name}
            unit["pairs"] = [item.pairs for item in chosen]
            if TASKS[name].kind == "code":
                unit["tests"] = [item.reference for item in chosen]
            units.append(unit)
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
        if TASKS[unit["task"]].kind == "code":
            found = self._programs(unit["pairs"], unit["tests"])
        else:
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

    def _programs(self, items: list[list[tuple[str, str]]], tests: list[str]) -> dict[str, Any]:
        """The most likely programs after their beginnings, and whether they pass their tests. Raises OSError
        if no process can be started for one."""
        written = self._texts(items, CODE_ENDS, CODE_TOKENS)
        answers = []
        for ((beginning, _),), text, test in zip(items, written["answers"], tests, strict=True):
            passed = sandbox.run(beginning + text, test, LIMITS).passed
            answers.append({"text": text, "passed": passed})
        return written | {"answers": answers}

    def _texts(
        self, items: list[list[tuple[str, str]]], ends: Sequence[str] = ENDS, most: int | None = None
    ) -> dict[str, Any]:
        """The most likely answers, as text."""
        tokenizer, most = self._engine.tokenizer, most or ANSWER_TOKENS
        whole = [encode(tokenizer, context) for ((context, _),) in items]
        prompts = [fitted(prompt, most, self._engine.context) for prompt in whole]
        batch, sampling = self._engine.batch(), Sampling(max_tokens=most, temperature=0.0)
        written: dict[int, list[int]] = {batch.submit(prompt, sampling): [] for prompt in prompts}
        while not batch.idle:
            for event in batch.step():
                ids = written[event.handle]
                ids.append(event.id)
                if len(ids) % LOOK_EVERY == 0 and not event.finish_reason:
                    text = str(tokenizer.decode(ids, skip_special_tokens=True))
                    if until(text, ends) != text:
                        batch.cancel(event.handle)
        texts = [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in written.values()]
        return {
            "answers": [until(text, ends) for text in texts],
            "tokens": sum(map(len, prompts)) + sum(map(len, written.values())),
            "shortened": sum(len(p) < len(w) for p, w in zip(prompts, whole, strict=True)),
        }

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int], bool]:
        """Ids of context and continuation, and whether the context was cut."""
        whole, after = encode_pair(self._engine.tokenizer, context, continuation)
        prompt = fitted(whole, len(after), self._engine.context)
        return prompt, after, len(prompt) < len(whole)


def until(text: str, ends: Sequence[str] = ENDS) -> str:
    """A generated answer up to the first of its ends."""
    return text[: min((place for end in ends if (place := text.find(end)) >= 0), default=len(text))]


def _read(pairs: list[tuple[list[int], list[int], bool]]) -> int:
    """Tokens of an item; a context that several choices share counts once."""
    return sum(map(len, {tuple(prompt) for prompt, _, _ in pairs})) + sum(len(after) for _, after, _ in pairs)
