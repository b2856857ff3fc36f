"""Answers to many conversations, by engines on as many workers as there are, kept until the stage is done.

Unlike `pool.answer`, a resumed stage does not ask again what was answered before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from headwater.cluster.runtime.parallel import map_units
from headwater.cluster.runtime.pool import Share
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.examples.chat import decode_answer, encode_answer, encode_prompt
from headwater.llm.examples.conversations import Conversation
from headwater.llm.inference import device_of, load_engine
from headwater.llm.inference.base import Sampling
from headwater.llm.rows.permutation import derived_seed

ANSWERS_PER_UNIT = 32


def ask(
    session: Session,
    output: Artifact,
    label: str,
    model: Folder,
    prompts: Sequence[Conversation],
    sampling: Sampling,
    *,
    samples: int = 1,
    gpus: float = 0.0,
) -> list[list[str]]:
    """`samples` answers to every prompt, in order. A prompt too long for the model is shortened.

    `label` names what is asked within `output`. An answer depends on `sampling.seed`, on its prompt's place
    and on its own number, not on the cluster.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i][-1]["content"]))
    size = max(1, ANSWERS_PER_UNIT // samples)
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    units = [
        {"unit": f"{number:05d}", "places": part, "prompts": [prompts[i] for i in part]}
        for number, part in enumerate(parts)
    ]
    results = map_units(
        session,
        output,
        label,
        units,
        Answerer,
        worker_args={"model": model, "sampling": sampling, "samples": samples, "gpus": gpus},
        size=lambda result: len(result["answers"]),
        total=len(prompts),
        unit_name="prompts",
        share=Share(cpus=1, gpus=gpus),
    )
    answers: list[list[str]] = [[] for _ in prompts]
    for part, result in zip(parts, results, strict=True):
        for i, given in zip(part, result["answers"], strict=True):
            answers[i] = given
    return answers


class Answerer:
    """Unit worker: one engine, loaded once per actor."""

    def __init__(self, model: Folder, sampling: Sampling, samples: int = 1, gpus: float = 0.0) -> None:
        self.engine = load_engine(model.local(), device=device_of(gpus), threads=1)
        self.sampling, self.samples = sampling, samples

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        room = self.engine.context - self.sampling.max_tokens
        encoded = [encode_prompt(self.engine.tokenizer, messages, room) for messages in unit["prompts"]]
        seed, numbers = self.sampling.seed or 0, range(self.samples)
        seeds = [derived_seed(derived_seed(seed, place), n) for place in unit["places"] for n in numbers]
        prompts = [prompt for prompt in encoded for _ in numbers]
        completions = self.engine.generate(prompts, replace(self.sampling, seed=None), seeds)
        texts = [decode_answer(self.engine.tokenizer, each.ids) for each in completions]
        return {"answers": [texts[i : i + self.samples] for i in range(0, len(texts), self.samples)]}


def likelihoods(
    session: Session,
    output: Artifact,
    label: str,
    model: Folder,
    prompts: Sequence[Conversation],
    answers: Sequence[Sequence[str]],
    *,
    gpus: float = 0.0,
) -> list[list[tuple[float, int]]]:
    """Log-likelihood (nats) and tokens of each given answer to each prompt, with the end of its turn."""
    pairs = list(zip(prompts, answers, strict=True))
    units = [
        {"unit": f"{start:06d}", "pairs": pairs[start : start + ANSWERS_PER_UNIT]}
        for start in range(0, len(pairs), ANSWERS_PER_UNIT)
    ]
    results = map_units(
        session,
        output,
        label,
        units,
        AnswerScorer,
        worker_args={"model": model, "gpus": gpus},
        size=lambda result: len(result["scores"]),
        total=len(pairs),
        unit_name="prompts",
        share=Share(cpus=1, gpus=gpus),
    )
    return [[(total, tokens) for total, tokens in each] for result in results for each in result["scores"]]


class AnswerScorer:
    """Unit worker: one engine, loaded once per actor."""

    def __init__(self, model: Folder, gpus: float = 0.0) -> None:
        self.engine = load_engine(model.local(), device=device_of(gpus), threads=1)

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        tokenizer = self.engine.tokenizer
        prompts, completions = [], []
        for messages, answers in unit["pairs"]:
            given = [encode_answer(tokenizer, answer) for answer in answers]
            room = self.engine.context - max(map(len, given))
            prompts += [encode_prompt(tokenizer, messages, room)] * len(given)
            completions += given
        logprobs = iter(self.engine.score(prompts, completions))
        found = [[next(logprobs) for _ in answers] for _, answers in unit["pairs"]]
        return {"scores": [[(sum(each), len(each)) for each in some] for some in found]}
