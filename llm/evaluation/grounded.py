"""Measures of models on held-out grounded tasks: citations, fabrication, refusals, length."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Folder
from headwater.llm.evaluation.measures import GroundedSample, GroundedTable
from headwater.llm.grounding.measures import Interval
from headwater.llm.grounding.prompt import INSTRUCTION
from headwater.llm.grounding.tasks import GroundedTask, measure_answers
from headwater.llm.inference import pool
from headwater.llm.inference.base import Sampling

ANSWER_TOKENS = 80
"""Maximum tokens of a measured answer; longer ones are cut."""
MEASURES = {
    "citation_recall": "citation recall",
    "citation_precision": "citation precision",
    "fabricated": "fabricated",
    "refused_unanswerable": "unanswerable refused",
    "refused_answerable": "answerable refused",
    "words": "words",
}


@dataclass(frozen=True)
class Candidate:
    """A model to measure, and the instruction that it is given."""

    label: str
    model: Folder
    instruction: str = INSTRUCTION


@dataclass(frozen=True)
class Answered:
    """The answers of each candidate to the same tasks, in order."""

    tasks: list[GroundedTask]
    answers: dict[str, list[str]]

    @functools.cached_property
    def measures(self) -> dict[str, dict[str, Interval]]:
        """Candidate → measure → value with its 95 % interval."""
        return {label: measure_answers(self.tasks, answers) for label, answers in self.answers.items()}

    def metrics(self) -> dict[str, dict[str, dict[str, float]]]:
        """`measures` as plain values, without those of no answer."""
        return {
            label: {name: asdict(interval) for name, interval in measured.items() if interval.count}
            for label, measured in self.measures.items()
        }

    def told(self) -> list[str]:
        """A line per candidate."""
        return [
            f"{label}: "
            + ", ".join(f"{MEASURES[name]} {each.value:.2f}" for name, each in found.items() if each.count)
            for label, found in self.measures.items()
        ]

    def table(self) -> GroundedTable:
        measured = self.measures
        rows = {
            shown: [shown_interval(each[name]) for each in measured.values()]
            for name, shown in MEASURES.items()
        }
        can = sum(task.answerable for task in self.tasks)
        return GroundedTable(list(measured), rows, can, len(self.tasks) - can)

    def samples(self, count: int) -> list[GroundedSample]:
        """The answers to the first tasks: to three answerable ones, then to one unanswerable, and so on."""
        order = mixed([task.answerable for task in self.tasks])[:count]
        return [
            GroundedSample(
                self.tasks[i].question,
                [f"{passage.title}: {passage.text}" for passage in self.tasks[i].passages],
                {label: answers[i] for label, answers in self.answers.items()},
                self.tasks[i].answer,
            )
            for i in order
        ]


def chosen(tasks: Sequence[GroundedTask], answerable: int, unanswerable: int) -> list[GroundedTask]:
    """The first tasks of both kinds."""
    first = [task for task in tasks if task.answerable][:answerable]
    return first + [task for task in tasks if not task.answerable][:unanswerable]


def mixed(answerable: Sequence[bool]) -> list[int]:
    """Indices of all: after every three answerable ones comes one that is not, as long as there are any."""
    rest = [i for i, can in enumerate(answerable) if not can]
    order: list[int] = []
    for number, i in enumerate((i for i, can in enumerate(answerable) if can), start=1):
        order.append(i)
        if number % 3 == 0 and rest:
            order.append(rest.pop(0))
    return order + rest


def answer_tasks(
    session: Session, tasks: Sequence[GroundedTask], candidates: Sequence[Candidate]
) -> Answered:
    """The most likely answers of every candidate. A prompt that is too long for a model is shortened."""
    sampling = Sampling(ANSWER_TOKENS, temperature=0.0)
    answers = {}
    for each in candidates:
        prompts = [task.prompt(each.instruction) for task in tasks]
        answers[each.label] = pool.answer(session, each.label, each.model, prompts, sampling)
    return Answered(list(tasks), answers)


def shown_interval(interval: Interval) -> str:
    """`0.83 (0.76 to 0.89)`; a dash without answers."""
    if not interval.count:
        return "–"
    digits = 1 if interval.high > 1 else 2
    value, low, high = (f"{x:.{digits}f}" for x in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})"
