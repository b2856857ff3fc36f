"""The judge: a reward model trained on rankings that the model it judges has not learnt from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from headwater.cluster.storage.artifact import Folder
from headwater.data_pipeline.split import document_fraction
from headwater.data_pipeline.tokens.tokenizer import load_tokenizer
from headwater.llm.examples.chat import PromptTooLong, encode_answer, encode_prompt
from headwater.llm.examples.conversations import Conversation
from headwater.llm.examples.rankings import Kept
from headwater.llm.model.build import reward_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Judged(NamedTuple):
    """A prompt and an answer."""

    prompt: Conversation
    answer: str
    cut: bool = False
    """The answer was cut at its limit: it has no end of turn."""


def split(kept: Iterable[Kept], judge_share: float) -> tuple[list[Kept], list[Kept]]:
    """The rankings of the judge, and those to train on. All rankings of a prompt are on one side."""
    sides: tuple[list[Kept], list[Kept]] = ([], [])
    for each in kept:
        sides[not is_judges(each.ranking.prompt, judge_share)].append(each)
    return sides


def is_judges(prompt: Conversation, judge_share: float) -> bool:
    """Whether a prompt is held out for the judge, by a hash of its text."""
    return document_fraction(json.dumps(["judge", prompt], sort_keys=True)) < judge_share


def margins(judge: Folder, kept: Sequence[Kept], max_length: int) -> dict[str, list[float]]:
    """Rater → for each pair the judge's score of the better answer less that of the worse one."""
    pairs = [(each.ranking.rater, *pair) for each in kept for pair in each.ranking.pairs()]
    better = scores(judge, [Judged(prompt, good.text, good.cut) for _, prompt, good, _ in pairs], max_length)
    worse = scores(judge, [Judged(prompt, bad.text, bad.cut) for _, prompt, _, bad in pairs], max_length)
    found: dict[str, list[float]] = {}
    for (rater, *_), good, bad in zip(pairs, better, worse, strict=True):
        found.setdefault(rater, []).append(good - bad)
    return found


def scores(judge: Folder, answers: Sequence[Judged], max_length: int) -> list[float]:
    """The judge's score of each answer, read at its last token as in training.

    The prompt is shortened to leave room for the answer. An answer that does not fit `max_length` tokens
    gets the lowest score.
    """
    import torch

    from headwater.llm.training.losses.objectives import sequence_rewards

    torch.set_num_threads(1)
    tokenizer, model = load_tokenizer(judge.local()), cast("Any", reward_model(judge).eval())
    sequences = [_encoded(tokenizer, each, max_length) for each in answers]
    order = sorted((i for i, ids in enumerate(sequences) if ids), key=lambda i: len(sequences[i]))
    found = [float("-inf")] * len(answers)
    for i, score in zip(order, sequence_rewards(model, [sequences[i] for i in order]), strict=True):
        found[i] = score
    return found


def _encoded(tokenizer: PreTrainedTokenizerFast, judged: Judged, max_length: int) -> list[int]:
    """Ids of a prompt and its whole answer; none if the answer does not fit."""
    ids = encode_answer(tokenizer, judged.answer, cut=judged.cut)
    try:
        return encode_prompt(tokenizer, judged.prompt, max_length - len(ids)) + ids
    except PromptTooLong:
        return []
