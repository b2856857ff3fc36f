"""OpenAssistant trees: one message with replies, which have replies, and people's ranks among them.

Köpf et al. 2023, "OpenAssistant Conversations"; rank 0 is the best of a message's replies.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from headwater.llm.examples.conversations import Conversation
from headwater.llm.examples.own_data.messages import BadRecord, messages_of

SPEAKERS = {"prompter": "user", "assistant": "assistant"}


def best_paths(root: Any) -> Iterator[Conversation]:
    """Conversations from the root on: every prompter's reply is followed, and of the assistant's the best.

    Each ends with the assistant; a tree without an answer is its prompt alone.
    """
    paths = list(_paths(root, []))
    yield from paths or [messages_of([_message(root)])]


def _paths(node: Any, before: list[dict[str, Any]]) -> Iterator[Conversation]:
    said = [*before, _message(node)]
    if said[-1]["role"] == "user":
        if answers := _ranked(node):
            yield from _paths(answers[0], said)
        return
    longer = [path for reply in _replies(node) for path in _paths(reply, said)]
    yield from longer or [messages_of(said)]


def ranked_pairs(root: Any) -> Iterator[tuple[Conversation, str, str]]:
    """(prompt, better, worse) for all pairs of ranked answers to a message, along the best paths.

    All pairs of one ranking, as in Ouyang et al. 2022, "Training language models to follow instructions".
    """
    yield from _pairs(root, [])


def _pairs(node: Any, before: list[dict[str, Any]]) -> Iterator[tuple[Conversation, str, str]]:
    said = [*before, _message(node)]
    if said[-1]["role"] == "user":
        answers = _ranked(node)
        prompt = messages_of(said)
        judged = [reply for reply in answers if reply.get("rank") is not None]
        for better, worse in itertools.combinations(judged, 2):
            texts = [messages_of([_message(reply)])[0]["content"] for reply in (better, worse)]
            if better["rank"] != worse["rank"] and texts[0] != texts[1]:
                yield prompt, texts[0], texts[1]
        if answers:
            yield from _pairs(answers[0], said)
    else:
        for reply in _replies(node):
            yield from _pairs(reply, said)


def _message(node: Any) -> dict[str, Any]:
    role = node.get("role") if isinstance(node, dict) else None
    if role not in SPEAKERS:
        raise BadRecord("unknown_role", f"a message of the tree has the role {role!r}")
    return {"role": SPEAKERS[role], "content": node.get("text")}


def _replies(node: Any) -> list[Any]:
    replies = node.get("replies") or []
    if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
        raise BadRecord("not_messages", "`replies` is not a list of messages")
    return [reply for reply in replies if not reply.get("deleted")]


def _ranked(node: Any) -> list[Any]:
    """The replies, best first; those without a rank last."""
    replies = _replies(node)
    return sorted(replies, key=lambda r: (r.get("rank") is None, r.get("rank") or 0))
