"""The verifier of answers with citations."""

from __future__ import annotations

from typing import Literal

import pytest

from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.prompt import NOTHING_FOUND
from headwater.llm.grounding.reward import reward
from headwater.llm.grounding.tasks import GroundedTask
from headwater.llm.inference.base import Completion
from headwater.llm.rl.rewards.verifiers import VERIFIERS

TEXTS = (
    "Farmers fear for their wheat after weeks of rain in Kent.",
    "The council of Leeds voted to rebuild the old bridge for 12 million pounds.",
)
PASSAGES = tuple(Passage(f"d{n}", "", f"Story {n}", text, 0, len(text)) for n, text in enumerate(TEXTS))
ANSWER = f"{TEXTS[1].removesuffix('.')} [2]."
ASKED = "What did the council of Leeds vote to rebuild in 2031?"
CAN = GroundedTask(ASKED, PASSAGES, ANSWER, "d1")
CANNOT = GroundedTask("Who won the chess final?", PASSAGES, NOTHING_FOUND, "d7")


def score(task: GroundedTask, answer: str, reason: Literal["stop", "length"] = "stop") -> float:
    return VERIFIERS["citations"](answer, Completion([], [], reason), task.as_prompt())


@pytest.mark.parametrize("task", [CAN, CANNOT])
@pytest.mark.parametrize(
    "answer",
    [
        ANSWER,
        ANSWER.replace("[2]", "[1]"),
        ANSWER.replace(" [2]", ""),
        ANSWER.replace("12", "14"),
        "In 2031 the council of Leeds voted to rebuild the old bridge [2].",
        NOTHING_FOUND,
        "",
    ],
)
def test_the_score_is_the_reward_of_the_tasks_own_passages(task: GroundedTask, answer: str) -> None:
    assert score(task, answer) == reward(task.question, answer, task.passages, task.answer)


def test_only_a_cited_answer_that_ends_has_the_full_score() -> None:
    assert score(CAN, ANSWER) == pytest.approx(1)
    assert 0 < score(CAN, ANSWER.replace("[2]", "[1]")) < 0.6
    assert (score(CAN, NOTHING_FOUND), score(CANNOT, NOTHING_FOUND), score(CANNOT, ANSWER)) == (0, 1, 0)
    assert score(CAN, ANSWER, "length") == 0
    named = "In 2031 the council of Leeds voted to rebuild the old bridge [2]."
    assert score(CAN, named) > 0.4, "a number of the question is not fabricated"
