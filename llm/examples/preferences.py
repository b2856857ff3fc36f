"""Preference pairs: two answers to one prompt, and which of them is better.

They come from the corpus (a true headline against another article's), from models, and from people, whose
rankings are in the store (`rankings.py`); a reward model reads all that are there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from headwater.cluster.storage.store import Store
from headwater.llm.examples import rankings
from headwater.llm.examples.chat import PromptTooLong, encode_answer, encode_prompt
from headwater.llm.examples.conversations import Conversation, Document, headline_conversation, split_of
from headwater.llm.examples.rankings import RANKINGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


Side = Literal["chosen", "rejected"]


@dataclass(frozen=True)
class Preference:
    """A prompt with its better answer `chosen` and its worse answer `rejected`."""

    prompt: Conversation
    chosen: str
    rejected: str
    source: str
    """Who judged: `headline`, `model`, or the `source` of a person's ranking."""
    origins: tuple[str, ...] = field(default=(), compare=False)
    """Ids of the source documents, or the file of the ranking."""
    cut: tuple[Side, ...] = ()
    """The answers that were cut at their limit of tokens: no end of turn is learnt after them."""


def headline_pairs(documents: Iterable[Document], seed: int) -> list[Preference]:
    """One pair per article with a headline: its own against that of another article, drawn by `seed`."""
    made = [(document["id"], headline_conversation(document)) for document in documents]
    named = [(name, conversation) for name, conversation in made if conversation is not None]
    conversations = [conversation for _, conversation in named]
    headlines = [conversation[-1]["content"] for conversation in conversations]
    pairs = []
    random = np.random.default_rng(seed)
    for number, conversation in enumerate(conversations):
        shift = 1 + int(random.integers(max(1, len(headlines) - 1)))
        opposite = (number + shift) % len(headlines)
        other, both = headlines[opposite], (named[number][0], named[opposite][0])
        if other != headlines[number]:  # equal headlines carry no preference
            pairs.append(Preference(conversation[:-1], headlines[number], other, "headline", both))
    return pairs


class LeftOut(Exception):
    """A pair that is not learnt from: a reason code, and the detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def encode_pair(
    tokenizer: PreTrainedTokenizerFast, pair: Preference, max_length: int
) -> dict[str, list[int]]:
    """Ids of the `prompt` that both answers follow, and of `chosen` and `rejected` with their end of turn,
    if they ended.

    The prompt is shortened to leave room for the longer answer; answers stay whole. Raises LeftOut with the
    reason `too_long` if they do not fit `max_length` tokens after an empty prompt, `equal_answers` if their
    ids are the same, or `no_tokens` for an answer that was cut and is empty.
    """
    encoded = {
        "chosen": encode_answer(tokenizer, pair.chosen, cut="chosen" in pair.cut),
        "rejected": encode_answer(tokenizer, pair.rejected, cut="rejected" in pair.cut),
    }
    if not all(encoded.values()):
        raise LeftOut("no_tokens", "an answer that was cut has no text")
    if encoded["chosen"] == encoded["rejected"]:
        raise LeftOut("equal_answers", "both answers have the same tokens")
    room = max_length - max(map(len, encoded.values()))
    try:
        return encoded | {"prompt": encode_prompt(tokenizer, pair.prompt, room)}
    except PromptTooLong as error:
        raise LeftOut("too_long", f"the answers do not fit `max_length` {max_length}") from error


def cut_sides(*, chosen: bool, rejected: bool) -> tuple[Side, ...]:
    """`Preference.cut` of two answers."""
    sides: tuple[tuple[Side, bool], ...] = (("chosen", chosen), ("rejected", rejected))
    return tuple(side for side, cut in sides if cut)


def split_of_prompt(prompt: Conversation) -> Literal["train", "heldout"]:
    """The split of all rankings of one prompt."""
    said = [[message["role"], message["content"].strip()] for message in prompt]
    return split_of(json.dumps(said, ensure_ascii=False))


def save_ranking(
    store_location: str,
    prompt_messages: list[dict[str, str]],
    chosen: str,
    rejected: str,
    *,
    model: str,
    source: str,
    rater: str = rankings.LOCAL_RATER,
) -> str:
    """Store one person's choice between two answers; returns the location of its file."""
    pair = {"chosen": chosen, "rejected": rejected, "source": source, "rater": rater}
    ranking = rankings.parse(pair | {"prompt": prompt_messages, "model": model})
    return rankings.save(Store(store_location), ranking.model_copy(update={"version": 2}))


def read_rankings(store: Store, bad: dict[str, str] | None = None) -> list[Preference]:
    """The pairs of every readable ranking, oldest first; a tie gives none.

    Bad rankings are logged and added to `bad`: file → fault.
    """
    return [
        Preference(
            prompt,
            better.text,
            worse.text,
            kept.ranking.source,
            (f"{RANKINGS}/{kept.name}",),
            cut_sides(chosen=better.cut, rejected=worse.cut),
        )
        for kept in rankings.read(store, bad)
        for prompt, better, worse in kept.ranking.pairs()
    ]


def rankings_fingerprint(store: Store) -> dict[str, Any]:
    """Changes when a ranking is added or removed."""
    return rankings.fingerprint(store.folder(RANKINGS).files(suffix=".json"))
