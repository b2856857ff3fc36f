"""Preference pairs: two answers to one prompt, and which of them is better.

They come from the corpus (a true headline against another article's), from models, and from people, whose
rankings are in the store (`rankings.py`); a reward model reads all that are there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headwater.cluster.storage.store import Store
from headwater.llm.examples import rankings
from headwater.llm.examples.conversations import Conversation, Document, headline_conversation
from headwater.llm.examples.rankings import RANKINGS


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
        Preference(prompt, better, worse, kept.ranking.source, (f"{RANKINGS}/{kept.name}",))
        for kept in rankings.read(store, bad)
        for prompt, better, worse in kept.ranking.pairs()
    ]


def rankings_fingerprint(store: Store) -> dict[str, Any]:
    """Changes when a ranking is added or removed."""
    return rankings.fingerprint(store.folder(RANKINGS).files(suffix=".json"))
