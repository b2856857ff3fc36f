"""Questions to claims, and which of a model's questions and rephrasings are kept."""

from __future__ import annotations

import pytest

from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.questions import (
    question_fault,
    question_prompt,
    rephrase_prompt,
    rephrasing_fault,
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
    ("question", "fault"),
    [
        ("How many new buses did Lisa Brown promise?", ""),
        ("By when did Lisa Brown promise the buses?", ""),
        ("Did Lisa Brown promise 12 new buses?", "no question"),
        ("How many new buses did Lisa Brown promise", "no question"),
        ("How many buses? By when did Lisa Brown promise?", "no question"),
        ("Who promised buses?", "length"),
        ("How many new buses did she promise the city?", "names nothing"),
        ("How many new buses did Lisa Green promise?", "not of the passage"),
        ("How many new trams did Lisa Brown buy in France?", "not of the passage"),
        ("Where in Leeds has it rained on Monday?", "not of the claim"),
        ("Who said Lisa Brown promised 12 new buses for the city by March?", "tells the claim"),
    ],
)
def test_written_questions_are_kept_only_if_the_claim_answers_them(question: str, fault: str) -> None:
    assert question_fault(question, PASSAGE, CLAIM) == fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The city was promised 12 new buses by March, by Lisa Brown.", ""),
        (CLAIM, "same words"),
        ("Lisa Brown promised 14 new buses for the city by March", "length"),
        ("Lisa Brown promised 14 new buses for the city by March.", "unsupported"),
        ("Lisa Brown did not promise 12 new buses for the city by March.", "unsupported"),
        ("Anna Brown promised 12 new buses for the city by March.", "unsupported"),
        (
            "Buses were promised, and then a great many other things happened in the city of Leeds by March.",
            "length",
        ),
    ],
)
def test_rephrasings_are_kept_only_if_the_passage_supports_them(text: str, fault: str) -> None:
    assert rephrasing_fault(text, PASSAGE, CLAIM) == fault


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
