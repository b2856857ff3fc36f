"""Measures of cited answers, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headwater.llm.grounding.measures import (
    Measured,
    bootstrap,
    is_refusal,
    measure,
    statements,
    summary,
    supported,
    wilson,
)
from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.prompt import NOTHING_FOUND


def passage(title: str, text: str) -> Passage:
    return Passage(title, "", title, text, 0, len(text))


BRIDGE = passage(
    "Old bridge", "The council voted on Tuesday to rebuild the bridge. Work costs 12 million pounds."
)
RAIN = passage("Weeks of rain", "Farmers fear for their wheat after weeks of rain. Ministers promised help.")
CHESS = passage("Chess", "The chess final in Oslo ended in a draw after seven hours.")
SOURCES = [BRIDGE, RAIN, CHESS]
QUESTION = "What did the council decide?"
VOTED = "The council voted to rebuild the bridge"
FEAR = "Farmers fear for their wheat"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("One thing [1]. Another thing [2][3].", [("One thing.", [1]), ("Another thing.", [2, 3])]),
        ("One thing. [1] Another thing. [2] [3]", [("One thing.", [1]), ("Another thing.", [2, 3])]),
        ("Work [1] goes on [1], says Smith.", [("Work goes on, says Smith.", [1])]),
        ("No marker here", [("No marker here", [])]),
        ("[1]", []),
        ("", []),
    ],
)
def test_a_marker_belongs_to_the_sentence_in_or_before_it(
    answer: str, expected: list[tuple[str, list[int]]]
) -> None:
    assert statements(answer) == expected


@pytest.mark.parametrize(
    ("answer", "recall", "precision"),
    [
        (f"{VOTED} [1].", 1, 1),
        (f"{VOTED} [2].", 0, 0),
        (f"{VOTED}.", 0, 0),
        (f"{VOTED} [1]. {FEAR} [2].", 1, 1),
        (f"{VOTED} [1]. {FEAR}.", 1 / 2, 1),
        (f"{VOTED} [1]. {FEAR} [3].", 1 / 2, 1 / 2),
        (f"{VOTED} [1][3].", 1, 1 / 2),  # 3 alone does not support it and 1 does: irrelevant
        (f"{VOTED} [7].", 0, 0),  # there is no such passage
        (f"{VOTED} [1][7].", 1, 1 / 2),
    ],
)
def test_citation_recall_and_precision_are_those_of_alce(
    answer: str, recall: float, precision: float
) -> None:
    found = measure(QUESTION, answer, SOURCES)
    assert (found.recall, found.precision) == pytest.approx((recall, precision))


def test_citations_that_support_a_statement_only_together_are_all_needed() -> None:
    both = "Work costs 12 million pounds, and farmers fear for wheat after weeks of rain"
    assert not supported(both, [BRIDGE]) and not supported(both, [RAIN]) and supported(both, [BRIDGE, RAIN])
    found = measure(QUESTION, f"{both} [1][2].", SOURCES)
    assert (found.recall, found.precision) == (1, 1)
    found = measure(QUESTION, f"{both} [1][2][3].", SOURCES)
    assert (found.recall, found.precision) == pytest.approx((1, 2 / 3))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (f"{VOTED} [1].", False),
        (f"{VOTED} for 14 million pounds [1].", True),
        (f"{VOTED} in Bergen [1].", True),
        ("The final ended after 7 hours [3].", False),  # "seven"
        ("However, the final ended in a draw [3].", False),  # opens a sentence: no name
        ("Magnus Carlsen drew the final [3].", True),
        (f"{VOTED} [14].", False),  # a marker is no number of the text
        ("Bergen [1].", False),
    ],
)
def test_a_number_or_name_outside_passages_and_question_is_fabricated(answer: str, expected: bool) -> None:
    assert measure(QUESTION, answer, SOURCES).fabricated is expected


def test_names_and_numbers_of_the_question_are_not_fabricated() -> None:
    assert not measure(
        "What did Lisa Brown pay in 2015?", "What Lisa Brown paid in 2015 is open.", SOURCES
    ).fabricated


@pytest.mark.parametrize(
    "answer",
    [
        NOTHING_FOUND,
        "I found nothing about this in my sources [1].",
        "The sources do not mention the name of the mayor.",
        "The provided text doesn't say when it happened.",
        "I'm sorry, but I can't find this.",
        "There is no information about the mayor.",
        "I do not know.",
    ],
)
def test_refusals_are_recognised_in_several_wordings(answer: str) -> None:
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "The mayor does not have the votes [1].",
        "Ministers did not say when help would come [2].",
        "There is nothing left of the bridge.",
        "The council voted. The sources do not say when.",
        "",
    ],
)
def test_denials_within_an_answer_are_no_refusals(answer: str) -> None:
    assert not is_refusal(answer)


def test_wilson_equals_its_published_example() -> None:
    """Newcombe 1998, table I: 81 of 263 is 0.2553 to 0.3662; 0 of 20 is 0 to 0.1611."""
    one = wilson(81, 263)
    assert (one.low, one.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    none = wilson(0, 20)
    assert (none.value, none.low, none.high) == pytest.approx((0, 0, 0.1611), abs=5e-5)


def test_the_bootstrap_interval_is_near_the_normal_one_for_many_values() -> None:
    values = np.random.default_rng(1).normal(2.0, 1.0, 400)
    found = bootstrap(list(values))
    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert bootstrap(list(values)) == found


def test_the_summary_counts_each_measure_over_its_own_answers() -> None:
    good = Measured(refused=False, recall=1, precision=1, fabricated=False, words=10)
    bad = Measured(refused=False, recall=0, precision=0, fabricated=True, words=30)
    refusal = Measured(refused=True, recall=0, precision=0, fabricated=False, words=8)
    found = summary([good, bad, refusal, refusal, bad, refusal], [True, True, True, False, False, False])
    assert {name: (i.value, i.count) for name, i in found.items()} == {
        "citation_recall": (0.5, 2),
        "citation_precision": (0.5, 2),
        "fabricated": (2 / 3, 3),
        "refused_unanswerable": (2 / 3, 3),
        "refused_answerable": (1 / 3, 3),
        "words": (20, 2),
    }
    assert math.isnan(summary([], [])["fabricated"].value)
