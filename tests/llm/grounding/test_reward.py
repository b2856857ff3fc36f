"""The reward of cited answers, against values computed by hand."""

from __future__ import annotations

import pytest

from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.prompt import NOTHING_FOUND
from headwater.llm.grounding.reward import overlap, reward

TEXT = "The council voted on Tuesday to rebuild the bridge. Work costs 12 million pounds."
PASSAGES = [Passage("d", "", "Old bridge", TEXT, 0, len(TEXT))]
QUESTION = "What did the council decide?"
RIGHT = "The council voted to rebuild the bridge [1]."
LONG = RIGHT + " The council voted on Tuesday to rebuild the bridge and the bridge [1]." * 3


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (RIGHT, 1.0),
        (RIGHT.replace(" [1]", ""), 0.5),  # relevant and brief
        (RIGHT.replace("[1]", "[2]"), 0.5),
        (f"{RIGHT} Work costs 12 million pounds [1].", 1.0),  # F1 with the reference is 8 / 12 > 0.6
        ("Work costs 12 million pounds [1].", 0.7),  # about something else
        (f"{RIGHT} The mayor of Bergen agreed.", 0.5),  # a fabricated name
        (NOTHING_FOUND, 0.0),
        (LONG, 0.5 + 0.3 + 0.2 * (2 - 43 / 25)),
    ],
)
def test_answers_are_faithful_relevant_and_brief(answer: str, expected: float) -> None:
    assert reward(QUESTION, answer, PASSAGES, RIGHT) == pytest.approx(expected)


@pytest.mark.parametrize(("answer", "expected"), [(NOTHING_FOUND, 1), (NOTHING_FOUND + "[1]", 0), (RIGHT, 0)])
def test_a_question_without_an_answer_is_refused_without_a_citation(answer: str, expected: float) -> None:
    assert reward(QUESTION, answer, PASSAGES, NOTHING_FOUND) == expected


def test_overlap_is_f1_of_content_words() -> None:
    assert overlap("The council voted [1].", "Councils vote for bridges.") == pytest.approx(2 * 2 / (2 + 3))
    assert overlap("", "It is so.") == 0
