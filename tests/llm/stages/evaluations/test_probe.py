"""The stages of `headwater probe`: splits, resuming, and examples that fine-tuning reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.documents import Document, document_id
from headwater.llm.examples.conversations import split_of
from headwater.llm.examples.own_data.reading import conversations
from headwater.llm.examples.own_data.source import DataSource
from headwater.llm.inference.asking import Answerer
from headwater.llm.probes.facts import read_facts
from headwater.llm.stages.evaluations import probe as stages
from headwater.llm.stages.evaluations.probe import (
    EXAMPLES,
    Facts,
    FactsConfig,
    Probe,
    ProbeConfig,
    read_asked,
)
from tests.llm.grounding.test_making import TOWNS
from tests.llm.models import save_model, small_model
from tests.serving.conftest import clean_artifact

ASK = ProbeConfig(samples=3, max_new_tokens=4)


def news(session: Session, count: int = 60) -> Artifact:
    made = []
    for number in range(count):
        town = TOWNS[number % len(TOWNS)]
        text = (
            f"The council voted to rebuild the old stone bridge near {town} for {number + 10} million pounds."
        )
        url = f"https://news.example/{number}"
        made.append(Document(document_id(url, text), url, "Old bridge to be rebuilt", text))
    return clean_artifact(session.store, made)


def model(folder: Path, stage: str, seed: int = 0) -> Artifact:
    return Artifact(save_model(folder / stage, small_model(seed)).artifact.location, stage, f"{seed}" * 16)


def test_questions_to_measure_are_of_other_documents_than_those_that_examples_are_written_from(
    tmp_path: Path, here: Session
) -> None:
    facts, _ = execute(Facts(FactsConfig(questions=8, heldout_questions=3)), {"clean": news(here)}, here)
    for split, count in (("train", 8), ("heldout", 3)):
        made = read_facts(facts, split)
        assert len(made) == count and {split_of(fact.document_id) for fact in made} == {split}
    found, _ = execute(Probe(ASK), {"facts": facts, "sft": model(tmp_path, "sft", 5)}, here)
    manifest = found.finished()
    assert manifest.inputs == {"facts": facts.key, "sft": "5" * 16}
    assert [each.fact for each in read_asked(found)] == read_facts(facts, "heldout")
    assert all(len(each.samples) == 3 for each in read_asked(found))
    assert any(each.answer for each in read_asked(found))
    assert manifest.metrics["heldout"]["right"]["value"] == 0, "an untrained model knows nothing"
    talks = [
        talk for _, talk in conversations(DataSource(files=(found.path(EXAMPLES),)), found.path(EXAMPLES))
    ]
    asked = {fact.prompt()[0]["content"] for fact in read_facts(facts, "train")}
    assert len(talks) == 8 and {talk[0]["content"] for talk in talks} == asked  # type: ignore[index]
    assert manifest.metrics["examples"] == {"unknown": 8}


def test_a_resumed_probe_asks_only_what_is_missing_and_finds_the_same(
    tmp_path: Path, here: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, _ = execute(Facts(FactsConfig(questions=4, heldout_questions=2)), {"clean": news(here)}, here)
    inputs = {"facts": facts, "sft": model(tmp_path, "sft")}
    whole, _ = execute(Probe(ASK), inputs, here)
    kept = [whole.read_bytes(name) for name in ("heldout.jsonl", "train.jsonl", EXAMPLES)]
    again = Artifact(str(tmp_path / "again"), "probe", "again")
    with monkeypatch.context() as broken:
        broken.setattr(stages, "examples", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            execute(Probe(ASK), inputs, here, output=again)
    monkeypatch.setattr(Answerer, "__call__", lambda self, unit: pytest.fail("was asked before"))
    execute(Probe(ASK), inputs, here, output=again)
    assert [again.read_bytes(name) for name in ("heldout.jsonl", "train.jsonl", EXAMPLES)] == kept


def test_own_questions_take_the_place_of_documents(tmp_path: Path, here: Session) -> None:
    lines: list[dict[str, Any]] = [{"prompt": f"Where is {n}?", "reference": f"Town {n}"} for n in range(12)]
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    stage = Facts(FactsConfig(data=(DataSource(files=(str(file),)),)))  # type: ignore[arg-type]
    facts, _ = execute(stage, {}, here)
    train, heldout = read_facts(facts, "train"), read_facts(facts, "heldout")
    assert len(train) + len(heldout) == 12 and 2 <= len(heldout) <= 10
    assert {fact.question for fact in train + heldout} == {line["prompt"] for line in lines}
    assert heldout[0].prompt() == [{"role": "user", "content": heldout[0].question}]


def test_documents_without_a_question_are_one_error(here: Session) -> None:
    with pytest.raises(HeadwaterError, match="there is no question to ask"):
        execute(Facts(FactsConfig()), {"clean": clean_artifact(here.store, [])}, here)
