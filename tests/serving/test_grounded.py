"""The stage that makes grounded tasks: from its documents alone, resumed, counted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.documents import Document, document_id
from headwater.llm.examples.conversations import split_of
from headwater.llm.grounding.measures import measure
from headwater.llm.grounding.tasks import read_tasks
from headwater.llm.inference.asking import Answerer
from headwater.serving import grounded
from headwater.serving.grounded import Grounded, GroundedConfig
from headwater.serving.retrieval.index import Index, IndexConfig
from tests.llm.grounding.test_making import TOWNS
from tests.serving.conftest import clean_artifact, tiny_model

THINGS = ["bridge", "library", "harbour", "theatre"]


def news() -> list[Document]:
    made = []
    for number, town in enumerate(TOWNS):
        for thing in THINGS:
            url = f"https://news.example/{town}/{thing}"
            title = "" if thing == "theatre" else f"{town} rebuilds its old {thing}"
            text = f"The council of {town} voted to rebuild the old {thing} for {number + 10} million pounds."
            made.append(Document(document_id(url, text), url, title, text))
    return made


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    store = Store(str(tmp_path_factory.mktemp("grounded")))
    clean = clean_artifact(store, news())
    index, _ = execute(Index(IndexConfig(passage_words=40)), {"clean": clean}, Session(store, max_workers=0))
    base = store.artifact("base", "1" * 16)
    tiny_model(Path(base.path("model")))
    return {"clean": clean, "index": index, "base": base}


def make(inputs: Mapping[str, Artifact], session: Session, **settings: Any) -> Artifact:
    config = GroundedConfig.model_validate({"max_new_tokens": 8} | settings)
    return execute(Grounded(config), inputs, session)[0]


def test_tasks_come_from_their_split_and_their_answers_are_supported(
    inputs: dict[str, Artifact], here: Session
) -> None:
    made = make(inputs, here, tasks=16, heldout_tasks=2)
    for split in ("train", "heldout"):
        tasks = read_tasks(made, split)  # type: ignore[arg-type]
        assert tasks and {split_of(task.document_id) for task in tasks} == {split}
        for task in tasks:
            found = measure(task.question, task.answer, task.passages)
            assert (found.refused, found.recall, found.precision) == (
                (True, 0, 0) if not task.answerable else (False, 1, 1)
            )
            assert (task.document_id in {p.document_id for p in task.passages}) == task.answerable
    manifest = made.manifest()
    assert manifest is not None
    train = manifest.metrics["train"]
    assert train["tasks"] == train["headline"] == 16 and train["unanswerable"] == 4
    refused = {name: count for name, count in train.items() if name.startswith("question refused")}
    assert sum(refused.values()) == train["asked_of_the_model"] > 0, "an untrained model writes no question"
    lines = Path(made.path("train.jsonl")).read_text().splitlines()
    assert [json.loads(line)["messages"][-1]["content"] for line in lines] == [
        task.answer for task in read_tasks(made, "train")
    ]


def test_a_resumed_run_does_not_write_again_and_makes_the_same_tasks(
    inputs: dict[str, Artifact], here: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = make(inputs, here, tasks=6, heldout_tasks=2)
    with Session(Store(str(tmp_path / "again")), max_workers=0) as session:
        with monkeypatch.context() as broken:
            broken.setattr(grounded, "write_tasks", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                make(inputs, session, tasks=6, heldout_tasks=2)
        written: list[int] = []
        write = Answerer.__call__

        def counted(self: Answerer, unit: dict[str, Any]) -> dict[str, Any]:
            written.append(len(unit["prompts"]))
            return write(self, unit)

        monkeypatch.setattr(Answerer, "__call__", counted)
        resumed = make(inputs, session, tasks=6, heldout_tasks=2)
    assert read_tasks(resumed, "train") == read_tasks(whole, "train")
    assert read_tasks(resumed, "heldout") == read_tasks(whole, "heldout")
    manifest = resumed.manifest()
    assert manifest is not None and sum(written) == manifest.metrics["heldout"]["asked_of_the_model"] > 0


def test_without_a_claim_there_is_an_error_that_says_so(here: Session, inputs: dict[str, Artifact]) -> None:
    text = "He came. She went. They saw it. " * 20
    lone = [Document(document_id(f"u:{n}", text), f"u:{n}", "", text) for n in range(8)]
    with pytest.raises(HeadwaterError, match="no document has a claim that a question can be made from"):
        make(inputs | {"clean": clean_artifact(here.store, lone)}, here, tasks=2, heldout_tasks=0)
