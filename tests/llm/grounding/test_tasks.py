"""Grounded tasks made from claims and found passages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from headwater.cluster.storage.artifact import Artifact
from headwater.llm.grounding.measures import measure
from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.prompt import NOTHING_FOUND, read_numbered
from headwater.llm.grounding.tasks import (
    Claim,
    GroundedTask,
    answerable_task,
    claims_of,
    measure_answers,
    mixed,
    read_tasks,
    unanswerable_task,
    write_tasks,
)

TEXT = (
    "The council of Leeds voted on Tuesday to rebuild the old bridge over the river Aire. "
    "He was glad, and so was everyone in the town hall that night, after years of talks. "
    "Work on the bridge costs 12 million pounds and takes two years."
)
DOCUMENT = {"id": "bridge", "url": "https://news.example/bridge", "title": "Bridge", "text": TEXT}
QUESTION = "What did the council of Leeds vote to rebuild?"


def passage(name: str, text: str) -> Passage:
    return Passage(name, f"https://news.example/{name}", name.title(), text, 0, len(text))


FOUND = [
    passage("bridge", TEXT),
    passage("rain", "Farmers fear for their wheat after weeks of rain in Kent."),
    passage("chess", "The chess final in Oslo ended in a draw after seven hours."),
    passage("budget", "The council of Leeds has no money left this year."),
]


@pytest.fixture
def claims() -> list[Claim]:
    return claims_of(DOCUMENT, 40, 20)


def test_claims_are_found_once_each_with_a_passage_of_the_document(claims: list[Claim]) -> None:
    assert [claim.text for claim in claims] == [
        "The council of Leeds voted on Tuesday to rebuild the old bridge over the river Aire.",
        "Work on the bridge costs 12 million pounds and takes two years.",
    ]
    assert all(TEXT[c.passage.start : c.passage.end] == c.passage.text for c in claims)
    assert len({claim.passage for claim in claims}) == 2


def test_an_answerable_task_cites_its_passage_wherever_that_lies(claims: list[Claim]) -> None:
    places = set()
    for seed in range(20):
        random = np.random.default_rng(seed)
        task = answerable_task(claims[0], QUESTION, "written", FOUND, 3, random)
        found = measure(task.question, task.answer, task.passages)
        assert (found.recall, found.precision, found.fabricated) == (1, 1, False)
        assert len(task.passages) == 3 and task.answerable
        places.add(task.passages.index(claims[0].passage))
    assert places == {0, 1, 2}


def test_an_unanswerable_task_has_passages_of_other_documents(claims: list[Claim]) -> None:
    task = unanswerable_task(claims[0], QUESTION, "written", FOUND, 2)
    assert task is not None and task.answer == NOTHING_FOUND and not task.answerable
    assert [p.document_id for p in task.passages] == ["rain", "chess"]


def test_no_task_is_unanswerable_if_its_passages_may_answer_it_or_are_too_few(claims: list[Claim]) -> None:
    assert unanswerable_task(claims[0], QUESTION, "written", FOUND, 4) is None
    copy = passage("copy", "The council of Leeds will rebuild the old bridge over the Aire, it voted.")
    assert unanswerable_task(claims[0], QUESTION, "written", [copy, *FOUND[1:2]], 2) is None
    near = passage("near", "The vote of the council of Leeds on what to rebuild comes on Friday.")
    assert unanswerable_task(claims[0], QUESTION, "written", [near, FOUND[1]], 2) is None


def test_documents_without_titles_are_not_taken_for_one_document() -> None:
    (claim, *_) = claims_of(DOCUMENT | {"title": "", "url": ""}, 40, 20)
    others = [Passage(p.document_id, "", "", p.text, 0, len(p.text)) for p in FOUND[1:3]]
    task = unanswerable_task(claim, QUESTION, "written", others, 2)
    assert task is not None and task.passages == tuple(others)


def test_tasks_of_a_split_are_read_back_from_their_file(claims: list[Claim], tmp_path: Path) -> None:
    odd = Passage("odd", "", "Two\u2028lines", "It is\na [1] text \u2013 with\x85signs.", 0, 30)
    tasks = [answerable_task(claims[0], QUESTION, "rule", [odd], 2, np.random.default_rng(0))]
    artifact = Artifact(str(tmp_path))
    write_tasks(artifact, "train", tasks)
    write_tasks(artifact, "heldout", [])
    assert read_tasks(artifact, "train") == tasks and read_tasks(artifact, "heldout") == []
    prompt = tasks[0].as_prompt()
    shown = {odd.text: "It is\na (1) text – with\nsigns."}  # as data: no number of a source, plain lines
    assert [p.text for p in read_numbered(prompt.context)] == [
        shown.get(p.text, p.text) for p in tasks[0].passages
    ]
    assert prompt.reference == tasks[0].answer and prompt.prompt[-1]["content"].endswith(QUESTION)


def test_a_task_is_read_back_from_its_record(claims: list[Claim]) -> None:
    task = answerable_task(claims[0], QUESTION, "written", FOUND, 3, np.random.default_rng(0))
    record = json.loads(json.dumps(task.record()))
    assert GroundedTask.read(record) == task
    assert record["messages"][-1] == {"role": "assistant", "content": task.answer}
    content = record["messages"][0]["content"]
    assert content.endswith(QUESTION) and all(p.text in content for p in task.passages)


def test_reference_answers_have_perfect_measures_and_other_answers_have_not(claims: list[Claim]) -> None:
    first = answerable_task(claims[0], QUESTION, "written", FOUND, 3, np.random.default_rng(0))
    silent = unanswerable_task(claims[0], QUESTION, "written", FOUND, 2)
    assert silent is not None
    own = {
        name: i.value for name, i in measure_answers([first, silent], [first.answer, silent.answer]).items()
    }
    assert own.pop("words") == len(first.answer.split()) - 1
    assert own == {
        "citation_recall": 1,
        "citation_precision": 1,
        "fabricated": 0,
        "refused_unanswerable": 1,
        "refused_answerable": 0,
    }
    wrong = measure_answers([first, silent], [silent.answer, first.answer])
    assert (wrong["refused_unanswerable"].value, wrong["refused_answerable"].value) == (0, 1)


def test_mixed_tasks_have_a_share_without_an_answer_and_all_that_there_were() -> None:
    own = Passage("d", "u", "t", "The council voted.", 0, 18)
    answerable = [GroundedTask(f"Who {n}?", (own,), "The council voted [1].", "d") for n in range(5)]
    unanswerable = [GroundedTask(f"Why {n}?", (own,), NOTHING_FOUND, "d") for n in range(2)]
    tasks = mixed([*answerable, *unanswerable], 0.5)
    assert [task.question for task in tasks if task.answerable] == [task.question for task in answerable]
    refused = [task.question for task in tasks if not task.answerable]
    assert refused == ["Why 0?", "Why 1?", "Why 0?", "Why 1?", "Why 0?"]
    for share, counts in ((0.4, (5, 3)), (0.2, (8, 2)), (2 / 7, (5, 2))):
        found = [task.answerable for task in mixed([*answerable, *unanswerable], share)]
        assert (found.count(True), found.count(False)) == counts
    assert mixed(answerable, 0.5) == answerable and mixed([], 0.5) == []
