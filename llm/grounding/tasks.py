"""Grounded tasks: a question, numbered passages, and the answer that they give or their silence.

A task is made from a claim of a document. Its passages are those that a search finds for the question; in an
unanswerable task those of the claim's document are left out.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from headwater.cluster.storage.artifact import Artifact
from headwater.llm.examples.tasks import Task
from headwater.llm.grounding.cite import support
from headwater.llm.grounding.claims import claim_spans, shortened
from headwater.llm.grounding.measures import Interval, is_refusal, measure, summary
from headwater.llm.grounding.passages import Passage, passage_spans
from headwater.llm.grounding.prompt import INSTRUCTION, NOTHING_FOUND, numbered, with_sources
from headwater.llm.grounding.sentences import content_stems

KNOWN_WORDS = 0.75
"""Above this share of a question's content words in other documents' passages, they may well answer it."""


@dataclass(frozen=True)
class Claim:
    """A shortened claim and the passage that supports it."""

    text: str
    passage: Passage


@dataclass(frozen=True)
class GroundedTask:
    question: str
    passages: tuple[Passage, ...]
    answer: str
    """With its `[n]`; `NOTHING_FOUND` for an unanswerable task."""
    document_id: str
    """The document that the question was made from."""
    kind: str = ""
    """How the question was made."""

    @property
    def answerable(self) -> bool:
        return not is_refusal(self.answer)

    def prompt(self, instruction: str = INSTRUCTION) -> list[dict[str, str]]:
        return with_sources([{"role": "user", "content": self.question}], self.passages, instruction)

    def as_prompt(self) -> Task:
        """For reinforcement learning: the answer as its reference, the passages as its context."""
        return Task(self.document_id, self.prompt(), self.answer, numbered(self.passages))

    def reworded(self, claim: Claim, text: str) -> GroundedTask:
        """The task, with its claim in other words."""
        same, other = claim.text.removesuffix("."), text.removesuffix(".")
        return replace(self, answer=self.answer.replace(same, other, 1))

    def record(self) -> dict[str, Any]:
        """As a JSON object: `messages` (prompt and answer), and the task's own fields."""
        messages = [*self.prompt(), {"role": "assistant", "content": self.answer}]
        return {"messages": messages, "answerable": self.answerable, **asdict(self)}

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> GroundedTask:
        passages = tuple(Passage(**passage) for passage in record["passages"])
        fields = {name: record[name] for name in ("question", "answer", "document_id", "kind")}
        return cls(passages=passages, **fields)


def claims_of(document: Mapping[str, Any], words: int, overlap: int) -> list[Claim]:
    """The claims of a document's passages, those of `passage_spans(text, words, overlap)`.

    A sentence in two passages is a claim of the first.
    """
    title, text = document["title"] or "", document["text"] or ""
    found, seen = [], set()
    for start, end in passage_spans(text, words, overlap):
        passage = Passage(document["id"], document["url"] or "", title, text[start:end], start, end)
        for first, last in claim_spans(passage.text):
            short = shortened(passage.text[first:last])
            if short and start + first not in seen and support(short, [passage]) is not None:
                seen.add(start + first)
                found.append(Claim(short, passage))
    return found


def answerable_task(
    claim: Claim, question: str, kind: str, found: Sequence[Passage], count: int, random: np.random.Generator
) -> GroundedTask:
    """The claim's passage at a random place among the best others found, `count` in all."""
    own = claim.passage
    others = [p for p in found if (p.document_id, p.start) != (own.document_id, own.start)][: count - 1]
    place = int(random.integers(len(others) + 1))
    passages = (*others[:place], own, *others[place:])
    answer = f"{claim.text.removesuffix('.')} [{place + 1}]."
    return GroundedTask(question, passages, answer, own.document_id, kind)


def unanswerable_task(
    claim: Claim, question: str, kind: str, found: Sequence[Passage], count: int
) -> GroundedTask | None:
    """The best passages found in other documents; None if these are too few or may answer the question."""
    own = claim.passage
    same = {
        p.document_id for p in found if (own.title and p.title == own.title) or (own.url and p.url == own.url)
    }
    others = [p for p in found if p.document_id not in same | {own.document_id}]
    others = [p for p in others if support(claim.text, [p]) is None][:count]
    asked = content_stems(question)
    known = content_stems(" ".join(f"{p.title} {p.text}" for p in others))
    if len(others) < count or len(asked & known) > KNOWN_WORDS * len(asked):
        return None
    return GroundedTask(question, tuple(others), NOTHING_FOUND, own.document_id, kind)


def mixed(tasks: Sequence[GroundedTask], unanswerable: float) -> list[GroundedTask]:
    """The tasks and repetitions of one kind, so that a share of `unanswerable` has no answer."""
    kinds = [[task for task in tasks if task.answerable is can] for can in (True, False)]
    if not all(kinds):
        return list(tasks)
    odds = unanswerable / (1 - unanswerable)
    answered, refused = map(len, kinds)
    counts = max(answered, round(refused / odds)), max(refused, round(answered * odds))
    return [
        task
        for kind, count in zip(kinds, counts, strict=True)
        for task in itertools.islice(itertools.cycle(kind), count)
    ]


def measure_answers(tasks: Sequence[GroundedTask], answers: Sequence[str]) -> dict[str, Interval]:
    """The measures of `measures.summary` for one answer to each task."""
    measured = [measure(t.question, a, t.passages) for t, a in zip(tasks, answers, strict=True)]
    return summary(measured, [task.answerable for task in tasks])


def write_tasks(
    artifact: Artifact, split: Literal["train", "heldout"], tasks: Iterable[GroundedTask]
) -> None:
    """Write `<split>.jsonl`: one `GroundedTask.record` a line."""
    lines = [json.dumps(task.record(), ensure_ascii=False) for task in tasks]
    artifact.write_bytes(f"{split}.jsonl", "".join(f"{line}\n" for line in lines).encode())


def read_tasks(artifact: Artifact, split: Literal["train", "heldout"]) -> list[GroundedTask]:
    """The tasks that `write_tasks` wrote, in order."""
    lines = artifact.read_bytes(f"{split}.jsonl").decode().split("\n")
    return [GroundedTask.read(json.loads(line)) for line in lines if line]
