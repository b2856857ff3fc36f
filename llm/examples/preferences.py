"""Preference pairs: two answers to one prompt, and which of them is better.

They come from the corpus (a true headline against another article's), from models, and from people. Each
ranking is one JSON file in the store's `rankings/`, so that any number of servers can write at the same
time; a reward model reads all files that are there.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.store import Store
from headwater.llm.examples.chat import check_messages
from headwater.llm.examples.conversations import Conversation, Document, headline_conversation

log = logging.getLogger("headwater")

RANKINGS = "rankings"


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
) -> str:
    """Store one person's choice between two answers; returns the location of its file."""
    ranking = {
        "prompt": prompt_messages,
        "chosen": chosen,
        "rejected": rejected,
        "model": model,
        "source": source,
    }
    _to_preference(ranking)
    now = datetime.now(UTC)
    ranking["time"] = now.isoformat()
    digest = hashlib.sha256(json.dumps(ranking, sort_keys=True).encode()).hexdigest()[:16]
    folder = Store(store_location).folder(RANKINGS)
    name = f"{now:%Y%m%dT%H%M%S%f}Z-{digest}.json"
    folder.write_json(name, ranking)
    return folder.path(name)


def read_rankings(store: Store, bad: dict[str, str] | None = None) -> list[Preference]:
    """Every readable ranking, oldest first. Bad ones are logged and added to `bad`: file → fault."""
    folder = store.folder(RANKINGS)
    faults = {} if bad is None else bad
    found = []
    for name in folder.files(suffix=".json"):
        try:
            preference = _to_preference(json.loads(folder.read_bytes(name)))
            found.append(replace(preference, origins=(f"{RANKINGS}/{name}",)))
        except (HeadwaterError, ValueError) as error:
            faults[folder.path(name)] = (
                error.what if isinstance(error, HeadwaterError) else f"not JSON: {error}"
            )
    for path, fault in faults.items():
        log.warning("ranking skipped: %s: %s", path, fault)
    return found


def rankings_fingerprint(store: Store) -> dict[str, Any]:
    """Changes when a ranking is added or removed: file names contain a hash of the content."""
    names = store.folder(RANKINGS).files(suffix=".json")
    return {
        "rankings": len(names),
        "rankings_sha256": hashlib.sha256("\n".join(names).encode()).hexdigest(),
    }


def _to_preference(ranking: Any) -> Preference:
    if not isinstance(ranking, dict):
        raise HeadwaterError("the ranking is not a JSON object")
    for key in ("chosen", "rejected", "source"):
        if not isinstance(ranking.get(key), str) or not ranking[key].strip():
            raise HeadwaterError(f"`{key}` is not a non-empty string")
    if ranking["chosen"] == ranking["rejected"]:
        raise HeadwaterError("both answers are equal")
    prompt = check_messages(ranking.get("prompt"))
    if prompt[-1]["role"] == "assistant":
        raise HeadwaterError(
            "the prompt ends with an assistant's turn", fix="remove the answer from the prompt"
        )
    return Preference(prompt, ranking["chosen"], ranking["rejected"], ranking["source"])
