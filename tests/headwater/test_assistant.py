"""The recipe of the assistant with a tiny untrained base, and what its sections mean together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.tokens.tokenizer import load_tokenizer
from headwater.llm.examples.conversations import split_of
from headwater.llm.examples.encoded import EncodedExamples
from headwater.llm.grounding.tasks import read_tasks
from headwater.recipe import load, parse
from tests.data_pipeline.corpora import article
from tests.headwater.test_packaged_recipes import dry_run
from tests.headwater.test_packaged_recipes import trains_here as trains_here  # the fixture
from tests.llm.examples.own_data.test_formats import json_lines
from tests.llm.models import foreign_model

STAGES = ["acquire", "clean", "index", "base", "grounded", "sft", "rl", "evaluate"]
SMALL = {
    "index.passage_words": 20,
    "index.overlap_words": 2,
    "grounded.tasks": 12,
    "grounded.heldout_tasks": 4,
    "grounded.max_new_tokens": 4,
    "sft.steps": 2,
    "sft.workers": 1,
    "sft.max_length": 256,
    "sft.precision": "fp32",
    "rl.steps": 1,
    "rl.batch": 8,
    "rl.group": 4,
    "rl.workers": 1,
    "rl.rollout_workers": 1,
    "rl.max_new_tokens": 4,
    "rl.heldout_prompts": 2,
    "rl.precision": "fp32",
    "evaluate.grounded_questions": 2,
    "evaluate.unanswerable": 1,
    "evaluate.heldout_prompts": 2,
}
BASE = {"clean": {}, "index": {}, "base": {"model": "m"}, "name": "own"}
SOURCES = {"acquire": {"sources": [{"kind": "folder", "paths": ["pages"]}]}}


def metrics(store: Path, stage: str) -> tuple[dict[str, Any], set[str]]:
    """Metrics and inputs of a store's one artifact of a stage."""
    (path,) = store.glob(f"{stage}/*/manifest.json")
    manifest = json.loads(path.read_text())
    return manifest["metrics"], set(manifest["inputs"])


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    """A corpus and a tiny untrained base for the recipe."""
    texts = [article(n, sentences=5) for n in range(120)]
    rows = [
        {"text": text, "url": f"https://example.org/{n}", "title": " ".join(text.split()[:26])}
        for n, text in enumerate(texts)
    ]
    pages = json_lines(tmp_path / "pages.jsonl", rows)
    settings = SMALL | {
        "acquire": json.dumps({"sources": [{"kind": "jsonl", "paths": [str(pages)]}]}),
        "base": json.dumps({"model": foreign_model(tmp_path / "base", "llama").path("model")}),
    }
    return [f"{key}={value}" for key, value in settings.items()]


def test_the_recipe_runs_through_every_stage_with_a_tiny_base(
    trains_here: Session, overrides: list[str]
) -> None:
    store = Path(trains_here.store.location)
    assert list(dry_run("assistant", trains_here, overrides)) == STAGES

    (folder,) = (path.parent for path in store.glob("grounded/*/manifest.json"))
    tasks = {split: read_tasks(Artifact(str(folder)), split) for split in ("train", "heldout")}  # type: ignore[arg-type]
    made, inputs = metrics(store, "grounded")
    assert inputs == {"clean", "index", "base"}
    assert {split: len(found) for split, found in tasks.items()} == {
        name: made[name]["tasks"] for name in made
    }
    for split, found in tasks.items():
        assert {split_of(task.document_id) for task in found} == {split}
        assert {task.answerable for task in found} == {True, False}
    trained, inputs = metrics(store, "sft")
    assert inputs == {"base", "grounded"}
    assert (trained["conversations"], trained["heldout_conversations"]) == tuple(map(len, tasks.values()))
    assert metrics(store, "rl")[1] == {"base", "grounded", "sft"}
    measured, _ = metrics(store, "evaluate")
    assert set(measured["grounded"]) == {"good prompt", "before training", "after training"}
    assert measured["grounded"]["after training"]["refused_unanswerable"]["count"] == 1
    (card,) = store.glob("evaluate/*/report/report.md")
    assert "## Answers from sources" in card.read_text()
    assert "| 2 answerable, 1 unanswerable questions | good prompt | before training |" in card.read_text()


@pytest.mark.soak  # `make test` has the turns of a search in llm/rl/test_turns.py
def test_the_assistant_can_learn_to_search_for_its_passages(
    trains_here: Session, overrides: list[str]
) -> None:
    searching = ["sft.task=search", "sft.max_length=512", "rl.task=search", "rl.max_episode_tokens=128"]
    made = dry_run("assistant", trains_here, [*overrides, *searching])
    talks = EncodedExamples(made["sft"], "train")
    tokenizer = load_tokenizer(made["base"].local("model"))
    ids, mask = (talks.gather(name, np.array([0]))[0] for name in ("ids", "mask"))
    learnt = tokenizer.decode([token for token, counts in zip(ids, mask, strict=True) if counts])
    task = read_tasks(made["grounded"], "train")[0]
    end = "<|im_end|>"
    assert learnt == f"search: {task.question}{end}{task.answer}{end}"
    rl = made["rl"].manifest()
    assert rl is not None and set(rl.inputs) == {"base", "grounded", "index", "sft"}


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_searching_needs_grounded_tasks(stage: str) -> None:
    with pytest.raises(HeadwaterError, match=f"`{stage}.task: search` asks the questions of the section"):
        parse(SOURCES | BASE | {stage: {"task": "search"}}, "own")


def test_with_grounded_tasks_the_later_stages_take_no_titles() -> None:
    sections = SOURCES | BASE | {"sft": {}, "rl": {"batch": 64}}
    titles, grounded = parse(sections, "own"), parse(sections | {"grounded": {}}, "own")
    assert titles.sft and grounded.sft and titles.rl and grounded.rl
    assert titles.sft.make == ("headline", "passage") and grounded.sft.make == ()
    assert (titles.rl.verifier, grounded.rl.verifier) == (None, "citations")
    asked = parse(sections | {"grounded": {}, "sft": {"make": ["passage"]}}, "own")
    assert asked.sft and asked.sft.make == ("passage",)


@pytest.mark.parametrize(
    "more", [{}, {"grounded": {}, "rl": {"verifier": "citations", "prompts": ["own.jsonl"]}}]
)
def test_citations_are_scored_only_for_tasks_with_passages(more: dict[str, Any]) -> None:
    with pytest.raises(HeadwaterError, match="scores tasks with passages alone: add a section `grounded`"):
        parse(SOURCES | BASE | {"rl": {"verifier": "citations"}} | more, "own")


def test_the_quickstart_has_no_grounded_tasks() -> None:
    recipe = load("quickstart")
    assert recipe.grounded is None and recipe.sft and recipe.sft.make and recipe.rl
    assert recipe.rl.verifier is None
