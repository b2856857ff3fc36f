"""Making tasks from documents with a search over them and a writer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from headwater.llm.grounding.making import Wanted, make_tasks
from headwater.llm.grounding.measures import measure
from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.questions import Messages
from headwater.llm.grounding.sentences import content_stems

TOWNS = [
    "Leeds",
    "Bergen",
    "Turin",
    "Porto",
    "Ghent",
    "Lyon",
    "Cork",
    "Graz",
    "Brno",
    "Vaasa",
    "Malmo",
    "Bath",
]
DOCUMENTS: list[dict[str, Any]] = [
    {
        "id": town,
        "url": f"https://news.example/{town}",
        "title": f"Mayor of {town} rebuilds bridge" if number % 2 else "",
        "text": f"The council of {town} voted to rebuild the old bridge for {number} million pounds.",
    }
    for number, town in enumerate(TOWNS, start=10)
]
WANTED = Wanted(tasks=8, unanswerable=0.25, passages=3, passage_words=40, overlap_words=10)


def search(question: str) -> Sequence[Passage]:
    asked = content_stems(question)
    found = [Passage(d["id"], d["url"], d["title"], d["text"], 0, len(d["text"])) for d in DOCUMENTS]
    return sorted(found, key=lambda p: -len(asked & content_stems(p.text)))


def write(prompts: list[Messages]) -> list[str]:
    """Good questions, except about Turin; rephrasings that are wrong about Porto."""
    answers = []
    for messages in prompts:
        claim = messages[-1]["content"].split("Sentence: ")[1]
        town = claim.split("council of ")[1].split()[0]
        if "question" in messages[-1]["content"]:
            question = f"What did the council of {town} vote to rebuild?"
            answers.append("What?" if town == "Turin" else f"{question}\nAnd more text.")
        else:
            amount = "99" if town == "Porto" else claim.split()[-3]
            answers.append(f"For {amount} million pounds, {town} is to rebuild the old bridge.")
    return answers


@pytest.mark.parametrize("rephrase", [False, True])
def test_tasks_have_the_wanted_shares_and_answers_that_their_passages_support(rephrase: bool) -> None:
    tasks, counts = make_tasks(DOCUMENTS, search, write, replace(WANTED, rephrase=rephrase))
    assert len(tasks) == counts["tasks"] == 8 and counts["unanswerable"] == 2
    assert sum(not task.answerable for task in tasks) == 2
    kinds = {task.kind for task in tasks}
    assert kinds == {"written", "headline"}
    for task in tasks:
        found = measure(task.question, task.answer, task.passages)
        own = [task.document_id in (p.document_id for p in task.passages)]
        assert own == [task.answerable]
        assert not task.answerable or (found.recall, found.precision, found.fabricated) == (1, 1, False)
        assert task.answer.startswith("For ") == (
            rephrase and task.answerable and task.document_id != "Porto"
        )
    assert make_tasks(DOCUMENTS, search, write, replace(WANTED, rephrase=rephrase)) == (tasks, counts)


def test_what_the_model_writes_is_refused_and_counted() -> None:
    tasks, counts = make_tasks(DOCUMENTS, search, write, WANTED)
    assert counts["rephrased"] == sum(task.answerable for task in tasks) - 1
    refused = {name: count for name, count in counts.items() if "refused" in name}
    assert refused == {"question refused: length": 1, "rephrasing refused: unsupported": 1}


def test_the_model_is_asked_about_no_more_than_rules_leave_to_it() -> None:
    asked: list[int] = []

    def counted(prompts: list[Messages]) -> list[str]:
        asked.append(len(prompts))
        return write(prompts)

    tasks, counts = make_tasks(DOCUMENTS, search, counted, WANTED)
    assert counts["asked_of_the_model"] == asked[0] == 5 and counts["headline"] >= 3
    assert asked[1] == sum(task.answerable for task in tasks)
    untitled = [document | {"title": ""} for document in DOCUMENTS]
    asked.clear()
    tasks, counts = make_tasks(untitled, search, counted, WANTED)
    assert asked[0] == 12 and counts["written"] == len(tasks) == 8


def test_an_unanswerable_question_is_also_asked_with_the_passage_that_answers_it() -> None:
    tasks, _ = make_tasks(DOCUMENTS, search, write, WANTED)
    silent = {task.question: task for task in tasks if not task.answerable}
    told = {task.question: task for task in tasks if task.answerable}
    assert len(silent) == 2 and set(silent) <= set(told)
    apart, _ = make_tasks(DOCUMENTS, search, write, replace(WANTED, paired=False))
    assert len({task.question for task in apart}) == len(apart) == 8


def test_the_number_of_passages_varies_only_if_wanted() -> None:
    many = replace(WANTED, tasks=11, unanswerable=0.0)
    varied, _ = make_tasks(DOCUMENTS, search, write, many)
    fixed, _ = make_tasks(DOCUMENTS, search, write, replace(many, vary=False))
    assert (
        {len(task.passages) for task in fixed} == {3} < {len(task.passages) for task in varied} <= {1, 2, 3}
    )
