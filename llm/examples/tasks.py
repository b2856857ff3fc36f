"""Tasks: prompts whose sampled answers can be scored, for reinforcement learning and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.corpus import iter_documents
from headwater.llm.examples.conversations import Conversation, Document, headline_conversation, split_of


@dataclass(frozen=True)
class Task:
    """One prompt, with what a verifier compares its answers with."""

    origin: str
    """Id of the document that it was made from, or `FILE:LINE`."""
    prompt: Conversation
    reference: str = ""
    """A right answer: the true headline, the solution of a problem."""
    context: str = ""
    """Text that the answer should keep to: the article, the passages."""
    verifiable: bool = True
    """Whether a verifier can judge its answers; else only a reward model scores them."""


def headline_tasks(documents: Iterable[Document], split: Literal["train", "heldout"]) -> Iterator[Task]:
    """Write a headline for an article: the tasks of one split, in document order."""
    for document in documents:
        if split_of(document["id"]) != split:
            continue
        conversation = headline_conversation(document)
        if conversation is not None:
            headline = conversation[-1]["content"]
            yield Task(document["id"], conversation[:-1], headline, str(document["text"]))


def check_titles(clean: Artifact, stage: str) -> None:
    """Raises HeadwaterError if no document of a corpus has a title that `stage` could make a task from."""
    if not any(headline_conversation(document) for document in iter_documents(clean)):
        raise HeadwaterError(
            f"no document has a title of 3 to 30 words, and {stage} makes its examples from titles",
            where=clean.location,
            fix=f"give {stage} data of your own, or remove the section `{stage}` and those that build on it",
        )


def arithmetic_tasks() -> Iterator[Task]:
    """The sums of all two numbers of up to two digits, 10,000 tasks, in one fixed shuffled order.

    The origin is the same for both orders of two numbers, so that they are in one split.
    """
    for number in np.random.default_rng(0).permutation(10_000).tolist():
        first, second = divmod(number, 100)
        prompt = [{"role": "user", "content": f"What is {first} + {second}?"}]
        origin = f"arithmetic:{min(first, second)}+{max(first, second)}"
        yield Task(origin, prompt, str(first + second))
