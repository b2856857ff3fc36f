"""The task `search`: the model looks for passages itself, and answers with sources.

A message of the model that begins with `search:` asks for passages; the reply has those found, numbered on
from the ones before. Any other message is the answer.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from headwater.llm.examples.conversations import Conversation
from headwater.llm.examples.tasks import Task
from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.prompt import NOTHING_FOUND, numbered, read_numbered
from headwater.llm.grounding.tasks import GroundedTask
from headwater.llm.rl.rollouts.turns import REPLY_ROLE

PASSAGES = 3
"""Passages that a search finds."""
NO_PASSAGE = "Nothing was found."
INSTRUCTION = (
    "Answer the question from sources. To find sources, write only `search:` and what to look for. Then "
    "answer in one short sentence. End it with the number of its source in brackets, such as [1]. If the "
    "sources do not answer the question, say only: " + NOTHING_FOUND
)
_SEARCH = re.compile(r"^search:[ \t]*(\S.*)", re.IGNORECASE)

OpenIndex = Callable[[str], Any]
"""Opens the index at a location: an object with `search(query, limit=…)` → passages, best first."""


@dataclass
class Search:
    """The environment: `find` returns the passages for a query, best first."""

    find: Callable[[str], Sequence[Passage]]

    def reply(self, messages: Conversation, task: Task) -> str | None:
        wanted = query_of(messages[-1]["content"])
        if wanted is None:
            return None
        seen = "\n\n".join(each["content"] for each in messages if each["role"] == REPLY_ROLE)
        return numbered(self.find(wanted), first=len(read_numbered(seen)) + 1) or NO_PASSAGE


def open_search(open_index: OpenIndex, location: str) -> Search:
    """The environment over an index, in the process that asks it."""
    return Search(functools.partial(open_index(location).search, limit=PASSAGES))


def query_of(message: str) -> str | None:
    """What a message of the model looks for; None if it is an answer."""
    found = _SEARCH.match(message.strip())
    return found.group(1).strip() if found else None


def search_task(task: GroundedTask) -> Task:
    """A question without passages. What the model finds becomes its context."""
    prompt = [{"role": "user", "content": f"{INSTRUCTION}\n\n{task.question}"}]
    return Task(task.document_id, prompt, task.answer)


def demonstration(task: GroundedTask) -> Conversation:
    """A conversation to fine-tune on: the question, a search in its words, the passages, the answer."""
    return [
        *search_task(task).prompt,
        {"role": "assistant", "content": f"search: {task.question}"},
        {"role": REPLY_ROLE, "content": numbered(task.passages)},
        {"role": "assistant", "content": task.answer},
    ]
