"""The search query of a conversation."""

from __future__ import annotations

import pytest

from headwater.serving.answers.query import CARRIED_WORDS, standalone

MOSUL = "What is the news about the Mosul offensive?"


@pytest.mark.parametrize(
    "follow_up",
    ["And who leads it?", "Why?", "When did they start?", "What about the civilians?", "Tell me more.", "?"],
)
def test_a_follow_up_gets_the_words_of_what_it_follows(follow_up: str) -> None:
    assert standalone([MOSUL, follow_up]) == f"{follow_up} news mosul offensive"


@pytest.mark.parametrize(
    "question",
    [
        "How did the nurses end their strike at the four hospitals?",
        "What did the telescope in Chile find?",
        "And how much does the new stone bridge cost the city council?",
        "Who beat the grandmaster?",
    ],
)
def test_a_question_of_its_own_stays_as_it_is(question: str) -> None:
    assert standalone([MOSUL, question]) == question


def test_a_first_question_stays_as_it_is_and_none_is_empty() -> None:
    assert standalone(["  And who leads it? "]) == "And who leads it?"
    assert standalone([]) == ""


def test_follow_ups_carry_the_subject_on_and_never_twice() -> None:
    asked = [MOSUL, "And who leads it?", "Where is he from?"]
    assert standalone(asked) == "Where is he from? leads news mosul offensive"
    assert standalone([MOSUL, "And the offensive?"]) == "And the offensive? news mosul"
    long = " ".join(f"word{n}" for n in range(99))
    assert len(standalone([long, "Why?"]).split()) == 1 + CARRIED_WORDS
