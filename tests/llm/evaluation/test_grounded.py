"""Measures of models on grounded tasks: which tasks, which figures, what the card shows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Folder
from headwater.llm.evaluation.grounded import (
    Answered,
    Candidate,
    answer_tasks,
    chosen,
    mixed,
    shown_interval,
)
from headwater.llm.evaluation.measures import Report
from headwater.llm.evaluation.report import to_markdown
from headwater.llm.grounding.measures import NO_ANSWERS, Interval
from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.prompt import FULL_INSTRUCTION, NOTHING_FOUND
from headwater.llm.grounding.tasks import GroundedTask
from tests.llm.models import foreign_model

TEXT = "The council of Leeds voted to rebuild the old bridge for 12 million pounds."
PASSAGE = Passage("d", "", "Leeds", TEXT, 0, len(TEXT))


def task(number: int, answerable: bool) -> GroundedTask:
    answer = f"{TEXT.removesuffix('.')} [1]." if answerable else NOTHING_FOUND
    return GroundedTask(f"What did Leeds decide ({number})?", (PASSAGE,), answer, f"d{number}")


TASKS = [task(number, number % 4 != 3) for number in range(8)]


def test_the_figures_of_a_model_are_those_of_its_answers() -> None:
    reference = [each.answer for each in TASKS]
    wrong = [f"Leeds voted to rebuild the old bridge for {99} million pounds [1]." for _ in TASKS]
    answered = Answered(TASKS, {"right": reference, "wrong": wrong, "silent": [NOTHING_FOUND] * 8})
    found = {
        label: {name: round(figure["value"], 3) for name, figure in figures.items()}
        for label, figures in answered.metrics().items()
    }
    assert found["right"] == {
        "citation_recall": 1,
        "citation_precision": 1,
        "fabricated": 0,
        "refused_unanswerable": 1,
        "refused_answerable": 0,
        "words": 14,
    }
    assert found["wrong"]["citation_recall"] == 0 and found["wrong"]["fabricated"] == 1
    assert found["wrong"]["refused_unanswerable"] == 0
    assert found["silent"] == {"refused_unanswerable": 1, "refused_answerable": 1}
    assert answered.told()[2] == "silent: unanswerable refused 1.00, answerable refused 1.00"
    card = to_markdown(Report("t", grounded=answered.table(), grounded_samples=answered.samples(2)), {})
    assert "| 6 answerable, 2 unanswerable questions | right | wrong | silent |" in card
    assert "| fabricated | 0.00 (0.00 to 0.39) | 1.00 (0.68 to 1.00) | – |" in card  # Wilson: 0 of 6, 8 of 8
    assert (
        "| unanswerable refused | 1.00 (0.34 to 1.00) | 0.00 (0.00 to 0.66) | 1.00 (0.34 to 1.00) |" in card
    )
    assert "60 % of a sentence's content words" in card
    assert card.count("question   What did Leeds decide") == 2 and "[1]        Leeds: The council" in card


def test_tasks_are_the_first_of_both_kinds_and_samples_show_both() -> None:
    assert [each.document_id for each in chosen(TASKS, 2, 1)] == ["d0", "d1", "d3"]
    assert chosen(TASKS, 0, 9) == [TASKS[3], TASKS[7]]
    assert mixed([True] * 7 + [False] * 3) == [0, 1, 2, 7, 3, 4, 5, 8, 6, 9]
    assert mixed([False, False]) == [0, 1]


@pytest.mark.parametrize(
    ("interval", "shown"),
    [
        (Interval(0.825, 0.756, 0.894, 100), "0.82 (0.76 to 0.89)"),
        (Interval(18.04, 17.0, 19.26, 100), "18.0 (17.0 to 19.3)"),
        (NO_ANSWERS, "–"),
    ],
)
def test_an_interval_is_shown_with_its_bounds(interval: Interval, shown: str) -> None:
    assert shown_interval(interval) == shown
    assert interval.count or math.isnan(interval.value)


def test_every_model_answers_every_task_with_its_own_instruction(here: Session, tmp_path: Path) -> None:
    model = Folder(foreign_model(tmp_path, "llama"), "model")
    long = Passage("long", "", "Leeds", TEXT * 40, 0, 40 * len(TEXT))  # longer than the model's context
    tasks = [*TASKS[:2], GroundedTask("What?", (long,), NOTHING_FOUND, "long")]
    answered = answer_tasks(
        here, tasks, [Candidate("full", model, FULL_INSTRUCTION), Candidate("short", model)]
    )
    assert {label: len(answers) for label, answers in answered.answers.items()} == {"full": 3, "short": 3}
    assert answered.answers["full"] != answered.answers["short"]
