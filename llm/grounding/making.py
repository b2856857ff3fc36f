"""Making grounded tasks from documents: claims, their questions, and passages found for them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
BY_RULE = KINDS["headline"] + KINDS["rule"]
CLAIMS_PER_DOCUMENT = 2
SPARE = 1.3
"""Claims with a question per wanted task: some find no passages without an answer."""
WRITTEN_SPARE = 2.5
"""Claims that the model is asked about per wanted question: a small one asks well about four of ten."""
IN_HEADLINE = 3
"""Content words that a claim shares with the headline if it answers the question about that."""

Search = Callable[[str], Sequence[Passage]]
"""The passages found for a question, best first: several times as many as a task has."""
Write = Callable[[list[Messages]], list[str]]
"""A model's answers to prompts."""


@dataclass(frozen=True)
class Wanted:
    """What to make: `tasks` in all, of these a share `unanswerable`, with `passages` each.

    If `vary`, one task in six has one passage and one in six two, as after a strict search. If `paired`, the
    question of an unanswerable task is also that of an answerable one: what tells them apart is the passages.
    """

    tasks: int
    unanswerable: float
    passages: int
    passage_words: int
    overlap_words: int
    vary: bool = True
    paired: bool = True
    rephrase: bool = True
    seed: int = 0

    @property
    def claims(self) -> float:
        """Claims with a question that the tasks are made of."""
        return self.tasks * (1 - self.unanswerable if self.paired else 1)


def make_tasks(
    documents: Iterable[Mapping[str, Any]], search: Search, write: Write, wanted: Wanted
) -> tuple[list[GroundedTask], dict[str, int]]:
    """The tasks, and counts of what was made, by kind, and refused, by reason.

    Rules ask what they can; the model is asked for the rest, and for other words of the answers alone that
    tasks have. Deterministic for equal arguments.
    """
    random = np.random.default_rng(wanted.seed)
    asked = _choose_claims(documents, wanted, random)
    by_rule = min(sum(bool(questions) for _, questions in asked), round(BY_RULE * wanted.claims))
    few = math.ceil(WRITTEN_SPARE * (wanted.claims - by_rule))
    unasked = [number for number, (_, questions) in enumerate(asked) if not questions][:few]
    counts: Counter[str] = Counter(claims=len(asked), asked_of_the_model=len(unasked))
    written = write([question_prompt(asked[number][0].text) for number in unasked])
    for number, text in zip(unasked, written, strict=True):
        claim, questions = asked[number]
        question = _first_line(text)
        if fault := question_fault(question, claim.passage, claim.text):
            counts[f"question refused: {fault}"] += 1
        else:
            questions["written"] = question
    made = _tasks([both for both in asked if both[1]], search, wanted, random, counts)
    tasks = _reworded(made, write, counts) if wanted.rephrase else [task for _, task in made]
    counts["unanswerable"] = sum(not task.answerable for task in tasks)
    counts.update(task.kind for task in tasks)
    return tasks, {**counts, "tasks": len(tasks)}


def _tasks(
    asked: Iterable[tuple[Claim, dict[str, str]]],
    search: Search,
    wanted: Wanted,
    random: np.random.Generator,
    counts: Counter[str],
) -> list[tuple[Claim, GroundedTask]]:
    """As many tasks as wanted, if there are enough claims, each with its claim."""
    tasks: list[tuple[Claim, GroundedTask]] = []
    kinds: Counter[str] = Counter()
    silent = 0
    for claim, questions in asked:
        kind = min(questions, key=lambda name: kinds[name] / KINDS[name])
        found = search(questions[kind])
        if unanswerable := silent < round(wanted.unanswerable * (len(tasks) + 1)):
            task = _task(claim, questions[kind], kind, found, False, wanted, random)
            if task is None:
                counts["unanswerable refused"] += 1
            else:
                tasks.append((claim, task))
                silent += 1
        if wanted.paired or not unanswerable:
            task = _task(claim, questions[kind], kind, found, True, wanted, random)
            tasks += [(claim, task)] if task else []
        kinds[kind] += 1
        if len(tasks) >= wanted.tasks:
            break
    return tasks[: wanted.tasks]


def _choose_claims(
    documents: Iterable[Mapping[str, Any]], wanted: Wanted, random: np.random.Generator
) -> list[tuple[Claim, dict[str, str]]]:
    """Claims in random order, each with the questions that rules make of it, by kind.

    Of as many documents as it takes for `SPARE` of the questions that rules are to make.
    """
    found: list[tuple[Claim, dict[str, str]]] = []
    enough, silent = SPARE * BY_RULE * wanted.claims, WRITTEN_SPARE * KINDS["written"] * wanted.claims
    asked = 0
    for document in documents:
        claims = claims_of(document, wanted.passage_words, wanted.overlap_words)
        order = random.permutation(len(claims))[:CLAIMS_PER_DOCUMENT]
        new = [(claims[i], _questions(claims[i])) for i in sorted(order)]
        found += new
        asked += sum(bool(questions) for _, questions in new)
        if asked >= enough and len(found) - asked >= silent:
            break
    return [found[i] for i in random.permutation(len(found))]


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0].strip()


def _questions(claim: Claim) -> dict[str, str]:
    """The questions that rules make of a claim, by kind."""
    found = {}
    title = clean_title(claim.passage.title, claim.passage.url)
    if not title.endswith("?") and len(content_stems(title) & content_stems(claim.text)) >= IN_HEADLINE:
        found["headline"] = question_about(title)
    if question := rule_question(claim.text):
        found["rule"] = question
    return found


def _reworded(
    chosen: list[tuple[Claim, GroundedTask]], write: Write, counts: Counter[str]
) -> list[GroundedTask]:
    """The tasks, answered in the model's words where these are right."""
    answered = [(claim, task) for claim, task in chosen if task.answerable]
    texts = write([rephrase_prompt(claim.text) for claim, _ in answered])
    reworded: dict[int, GroundedTask] = {}
    for (claim, task), text in zip(answered, map(_first_line, texts), strict=True):
        fault = rephrasing_fault(text, claim.passage, claim.text)
        counts[f"rephrasing refused: {fault}" if fault else "rephrased"] += 1
        if not fault:
            reworded[id(task)] = task.reworded(claim, text)
    return [reworded.get(id(task), task) for _, task in chosen]


def _task(
    claim: Claim,
    question: str,
    kind: str,
    found: Sequence[Passage],
    answerable: bool,
    wanted: Wanted,
    random: np.random.Generator,
) -> GroundedTask | None:
    count = max(1, wanted.passages - max(0, 2 - int(random.integers(6)))) if wanted.vary else wanted.passages
    if answerable:
        return answerable_task(claim, question, kind, found, count, random)
    return unanswerable_task(claim, question, kind, found, count)
