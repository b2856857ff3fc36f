"""Questions to claims, and which of a model's questions and rephrasings are kept."""

from __future__ import annotations

import pytest

from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.questions import (
    is_good_question,
    is_good_rephrasing,
    question_prompt,
    rephrase_prompt,
    rule_question,
)

TEXT = "Lisa Brown, the mayor of Leeds, promised 12 new buses for the city by March. It rained on Monday."
PASSAGE = Passage("d", "", "Buses for Leeds", TEXT, 0, len(TEXT))
CLAIM = "Lisa Brown promised 12 new buses for the city by March."


@pytest.mark.parametrize("prompt", [question_prompt(CLAIM), rephrase_prompt(CLAIM)])
def test_prompts_are_examples_and_end_with_the_claim(prompt: list[dict[str, str]]) -> None:
    assert [message["role"] for message in prompt] == ["user", "assistant"] * (len(prompt) // 2) + ["user"]
    assert len(prompt) >= 5 and prompt[-1]["content"].endswith(CLAIM)


@pytest.mark.parametrize(
    ("question", "good"),
    [
        ("How many new buses did Lisa Brown promise?", True),
        ("By when did Lisa Brown promise the buses?", True),
        ("Did Lisa Brown promise 12 new buses?", False),  # yes or no
        ("How many new buses did Lisa Brown promise", False),
        ("How many buses? By when did Lisa Brown promise?", False),
        ("Who promised buses?", False),  # too short
        ("How many new buses did she promise the city?", False),  # names nothing
        ("How many new buses did Lisa Green promise?", False),  # another name
        ("How many new trams did Lisa Brown buy in France?", False),
        ("What was the weather in Leeds on Monday?", False),  # the claim does not answer it
        ("Who said Lisa Brown promised 12 new buses for the city by March?", False),  # nothing left to say
    ],
)
def test_written_questions_are_kept_only_if_the_claim_answers_them(question: str, good: bool) -> None:
    assert is_good_question(question, PASSAGE, CLAIM) is good


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("The city was promised 12 new buses by March, by Lisa Brown.", True),
        (CLAIM, False),
        ("Lisa Brown promised 14 new buses for the city by March", False),
        ("Lisa Brown promised 14 new buses for the city by March.", False),
        ("Lisa Brown did not promise 12 new buses for the city by March.", False),
        ("Anna Brown promised 12 new buses for the city by March.", False),
        (
            "Buses were promised, and then a great many other things happened in the city of Leeds by March.",
            False,
        ),
    ],
)
def test_rephrasings_are_kept_only_if_the_passage_supports_them(text: str, good: bool) -> None:
    assert is_good_rephrasing(text, PASSAGE, CLAIM) is good


@pytest.mark.parametrize(
    ("claim", "question"),
    [
        (CLAIM, "What is the news about Lisa Brown?"),
        ("The White House said on Monday that it would reply.", "What did the White House say?"),
        ("Anna Maria Lopez was the first nurse in Leeds.", "What is known about Anna Maria Lopez?"),
        ("Leeds has 12 new buses.", ""),
        ("Lisa Brown's buses run in Leeds.", ""),
        ("While President Brown was away, the city bought buses.", ""),
        ("South Asian governments have bought buses.", ""),
        (
            "Seven people were arrested outside the office when a van was blocked.",
            "How many people were arrested outside the office?",
        ),
        (
            "At least 500 million old accounts have been opened by the bank, police said.",
            "How many old accounts have been opened by the bank?",
        ),
        ("Seven is a number that people like.", ""),
    ],
)
def test_rules_ask_for_the_number_or_name_at_the_beginning(claim: str, question: str) -> None:
    assert rule_question(claim) == question
