"""Making grounded tasks from documents: claims, their questions, and passages found for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headwater.llm.examples.conversations import clean_title, question_about
from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.questions import (
    Messages,
    question_fault,
    question_prompt,
    rephrase_prompt,
    rephrasing_fault,
    rule_question,
)
from headwater.llm.grounding.sentences import content_stems
from headwater.llm.grounding.tasks import (
    Claim,
    GroundedTask,
    answerable_task,
    claims_of,
    unanswerable_task,
)

KINDS = {"written": 0.4, "headline": 0.3, "rule": 0.3}
"""Wanted shares of the kinds of questions: written by the model, about the headline, made by a rule."""
CLAIMS_PER_DOCUMENT = 2
SPARE = 1.7
"""Claims per wanted task: some get no question, and some no passages without an answer."""
IN_HEADLINE = 3
"""Content words that a claim shares with the headline if it answers the question about that."""

Search = Callable[[str], Sequence[Passage]]
"""The passages found for a question, best first: several times as many as a task has."""
Write = Callable[[list[Messages]], list[str]]
"""A model's answers to prompts."""


@dataclass(frozen=True)
class Wanted:
    """What to make: `tasks` in all, of these a share `unanswerable`, with `passages` each.

    If `vary`, one task in six has one passage and one in six two, as after a strict search.
    """

    tasks: int
    unanswerable: float
    passages: int
    passage_words: int
    overlap_words: int
    vary: bool = True
    rephrase: bool = True
    seed: int = 0


def make_tasks(
    documents: Iterable[Mapping[str, Any]], search: Search, write: Write, wanted: Wanted
) -> tuple[list[GroundedTask], dict[str, int]]:
    """The tasks, and counts of what was made, by kind, and refused, by reason.

    Deterministic for equal arguments.
    """
    random = np.random.default_rng(wanted.seed)
    claims = _choose_claims(documents, wanted, random)
    counts: Counter[str] = Counter(claims=len(claims))
    written = [_first_line(text) for text in write([question_prompt(claim.text) for claim in claims])]
    both = [(claim, _questions(claim, text, counts)) for claim, text in zip(claims, written, strict=True)]
    counts["without_question"] = sum(not questions for _, questions in both)
    both = [(claim, questions) for claim, questions in both if questions]
    claims, asked = [claim for claim, _ in both], [questions for _, questions in both]
    if wanted.rephrase:
        claims = _rephrased(claims, write, counts)
    tasks: list[GroundedTask] = []
    made: Counter[str] = Counter()
    for claim, questions in zip(claims, asked, strict=True):
        if len(tasks) == wanted.tasks:
            break
        kind = min(questions, key=lambda name: made[name] / KINDS[name])
        silent = made["unanswerable"] < round(wanted.unanswerable * (len(tasks) + 1))
        task = _task(claim, questions[kind], kind, search, silent, wanted, random)
        if task is None:
            counts["unanswerable refused"] += 1
            continue
        made.update([kind, *([] if task.answerable else ["unanswerable"])])
        tasks.append(task)
    return tasks, {**counts, **made, "tasks": len(tasks)}


def _choose_claims(
    documents: Iterable[Mapping[str, Any]], wanted: Wanted, random: np.random.Generator
) -> list[Claim]:
    claims: list[Claim] = []
    for document in documents:
        found = claims_of(document, wanted.passage_words, wanted.overlap_words)
        order = random.permutation(len(found))[:CLAIMS_PER_DOCUMENT]
        claims += [found[i] for i in sorted(order)]
        if len(claims) >= SPARE * wanted.tasks:
            break
    return [claims[i] for i in random.permutation(len(claims))]


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0].strip()


def _questions(claim: Claim, written: str, counts: Counter[str]) -> dict[str, str]:
    """The questions that a claim answers, by kind."""
    found = {}
    if fault := question_fault(written, claim.passage, claim.text):
        counts[f"question refused: {fault}"] += 1
    else:
        found["written"] = written
    title = clean_title(claim.passage.title, claim.passage.url)
    if not title.endswith("?") and len(content_stems(title) & content_stems(claim.text)) >= IN_HEADLINE:
        found["headline"] = question_about(title)
    if question := rule_question(claim.text):
        found["rule"] = question
    return found


def _rephrased(claims: list[Claim], write: Write, counts: Counter[str]) -> list[Claim]:
    """The claims, in the model's words where these are right."""
    texts = [_first_line(text) for text in write([rephrase_prompt(claim.text) for claim in claims])]
    found = []
    for claim, text in zip(claims, texts, strict=True):
        fault = rephrasing_fault(text, claim.passage, claim.text)
        counts[f"rephrasing refused: {fault}" if fault else "rephrased"] += 1
        found.append(claim if fault else replace(claim, text=text))
    return found


def _task(
    claim: Claim,
    question: str,
    kind: str,
    search: Search,
    silent: bool,
    wanted: Wanted,
    random: np.random.Generator,
) -> GroundedTask | None:
    found = search(question)
    count = max(1, wanted.passages - max(0, 2 - int(random.integers(6)))) if wanted.vary else wanted.passages
    if silent:
        return unanswerable_task(claim, question, kind, found, count)
    return answerable_task(claim, question, kind, found, count, random)
