"""What the report card shows of a run that has less than all stages and data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact, Manifest
from headwater.llm.examples.own_data.reading import split_of_record
from headwater.llm.stages.evaluate import Evaluate, EvaluateConfig
from headwater.llm.stages.metric_rows import expectations, metric_rows
from tests.llm.examples.own_data.test_formats import json_lines


def finished_rl(folder: Path, prompts: Path, **settings: Any) -> Artifact:
    artifact = Artifact(str(folder), "rl", "0")
    artifact.write_json("data.json", {})
    config = {"prompts": [{"files": [str(prompts)]}]} | settings
    artifact.finish(
        Manifest(stage="rl", key="0", stage_version=1, config=config, inputs={}, metrics={"kl": 0.5})
    )
    return artifact


def test_without_a_held_out_prompt_there_is_nothing_to_compare(tmp_path: Path, here: Session) -> None:
    name = next(name for name in "abcdef" if split_of_record(f"{name}.jsonl:1") == "train")
    rl = finished_rl(tmp_path / "rl", json_lines(tmp_path / f"{name}.jsonl", [{"prompt": "Why?"}]))
    assert Evaluate(EvaluateConfig())._answers({"rl": rl}, here) == {}
    rows = metric_rows({"rl": rl}, {"bits_per_byte": {}, "reward_accuracy": {}})
    assert [(row.name, row.value) for row in rows] == [("kl", 0.5)]


@pytest.mark.parametrize(("verifier", "shown"), [("number", {"verifiable_reward"}), (None, set())])
def test_a_verifiers_reward_is_shown_if_there_is_a_verifier(
    tmp_path: Path, verifier: str | None, shown: set[str]
) -> None:
    rl = finished_rl(tmp_path / "rl", tmp_path / "prompts.jsonl", verifier=verifier)
    means = {"reward": 0.1, "reward_model": 0.0, "verified": 0.0}
    measured = {"bits_per_byte": {}, "reward_accuracy": {}, "before_rl": means, "after_rl": means}
    names = {row.name for row in metric_rows({"rl": rl}, measured)}
    assert names == {"total reward", "kl"} | shown


def finished_pretrain(folder: Path, parameters: int) -> Artifact:
    artifact = Artifact(str(folder), "pretrain", "0")
    metrics = {"parameters": parameters, "tokens": 655_360}
    artifact.write_json("data.json", {})
    artifact.finish(
        Manifest(stage="pretrain", key="0", stage_version=1, config={}, inputs={}, metrics=metrics)
    )
    return artifact


def test_the_card_says_what_a_small_model_from_scratch_cannot_do(tmp_path: Path) -> None:
    small, large = (finished_pretrain(tmp_path / str(n), n) for n in (2_140_000, 124_000_000))
    told = expectations({"pretrain": small})
    assert "2.1 million parameters" in told[0] and "0.7 million tokens" in told[0]
    assert expectations({"pretrain": large}) == []
    assert expectations({"pretrain": small, "base": large}) == []
    assert expectations({}) == []
