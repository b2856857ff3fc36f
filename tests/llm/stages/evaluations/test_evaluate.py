"""What the report card shows of a run that has less than all stages and data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact, Manifest
from headwater.llm.evaluation.measures import Report
from headwater.llm.evaluation.report import to_markdown
from headwater.llm.examples.encoded import EncodedExamples
from headwater.llm.examples.own_data.reading import split_of_record
from headwater.llm.stages.data.pair_batches import pair_arrays
from headwater.llm.stages.data.preference_pairs import write_pairs
from headwater.llm.stages.evaluations.evaluate import Evaluate, EvaluateConfig, pair_accuracies
from headwater.llm.stages.evaluations.metric_rows import expectations, metric_rows
from headwater.llm.training.losses.shared_prompts import rewards
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.examples.own_data.test_formats import json_lines
from tests.llm.stages.data.test_pairs import PAD, pairs
from tests.llm.training.parallel.test_sharding import small_reward_model


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


def finished(folder: Path, stage: str, **metrics: Any) -> Artifact:
    artifact = Artifact(str(folder / stage), stage, "0")
    artifact.write_json("data.json", {})
    artifact.finish(
        Manifest(stage=stage, key="0", stage_version=1, config={}, inputs={}, metrics=dict(metrics))
    )
    return artifact


def test_the_card_shows_the_bits_per_byte_of_every_model(tmp_path: Path) -> None:
    pretrain = finished(tmp_path, "pretrain", parameters=9, unigram_bits_per_byte=2.7)
    bits = {"pretrain": 2.0, "sft": 2.1, "dpo": 2.2, "rl": 2.3}
    rows = metric_rows({"pretrain": pretrain}, {"bits_per_byte": bits, "reward_accuracy": {}})
    found = [(r.name, r.value, r.baseline, r.baseline_name) for r in rows if "bits" in r.name]
    assert found == [
        ("bits_per_byte", 2.0, 2.7, "unigram model"),
        ("bits_per_byte after sft", 2.1, 2.0, "pretrain"),
        ("bits_per_byte after dpo", 2.2, 2.0, "pretrain"),
        ("bits_per_byte after rl", 2.3, 2.0, "pretrain"),
    ]
    rows = metric_rows({"pretrain": pretrain}, {"bits_per_byte": bits | {"base": 1.9}, "reward_accuracy": {}})
    assert [(r.baseline, r.baseline_name) for r in rows if r.name == "bits_per_byte"] == [(1.9, "base")]
    assert not [r for r in metric_rows({}, {"bits_per_byte": {}, "reward_accuracy": {}}) if "bits" in r.name]


def test_accuracies_on_pairs_have_their_interval(tmp_path: Path) -> None:
    dpo = finished(tmp_path, "dpo", heldout_accuracy=0.75, heldout_pairs=200)
    people = {"people": {"value": 0.6, "low": 0.4, "high": 0.8, "count": 20}}
    rows = metric_rows({"dpo": dpo}, {"bits_per_byte": {}, "reward_accuracy": people})
    found = {row.name: row for row in rows}
    assert found["reward_accuracy (people)"].interval == (0.4, 0.8)
    # Wilson's interval for 150 of 200: (0.75 + z²/400 ± z √(0.75 × 0.25 / 200 + z²/160,000)) / (1 + z²/200)
    assert found["dpo_accuracy"].interval == pytest.approx((0.6857, 0.8050), abs=1e-4)
    assert "0.6 (0.4 to 0.8)" in to_markdown(Report("Card", metrics=rows), {})


def test_the_reward_models_accuracy_is_measured_on_each_kind_of_pairs(tmp_path: Path) -> None:
    output = Artifact(str(tmp_path))
    kinds = {"heldout/corpus": pairs(30, "headline"), "heldout/people": pairs(7)}
    write_pairs(output, kinds, chat_tokenizer(), 100)
    model: Any = small_reward_model()
    model.config.pad_token_id = PAD
    model.save_pretrained(tmp_path / "model")
    found = pair_accuracies(output, 20)
    assert {kind: share["count"] for kind, share in found.items()} == {"corpus": 20, "people": 7}
    batch = pair_arrays(EncodedExamples(output, "heldout", "people.arrow"), np.arange(7), PAD)
    with torch.no_grad():
        better, worse = (
            rewards(model.eval(), *(torch.from_numpy(batch[f"{side}{part}"]) for part in ("", "_mask")))
            for side in ("chosen", "rejected")
        )
    assert found["people"]["value"] == int((better > worse).sum()) / 7


@pytest.mark.parametrize(
    ("verifier", "shown"), [("number", {"verifiable_reward", "verifiable_reward before RL"}), (None, set())]
)
def test_a_verifiers_reward_is_shown_if_there_is_a_verifier(
    tmp_path: Path, verifier: str | None, shown: set[str]
) -> None:
    rl = finished_rl(tmp_path / "rl", tmp_path / "prompts.jsonl", verifier=verifier)
    share = {"value": 0.0, "low": 0.0, "high": 0.3, "count": 9}
    means = {"reward": 0.1, "reward_model": 0.0, "verified": 0.0, "verified_interval": share}
    measured = {"bits_per_byte": {}, "reward_accuracy": {}, "before_rl": means, "after_rl": means}
    rows = {row.name: row for row in metric_rows({"rl": rl}, measured)}
    assert rows.keys() == {"total reward", "kl"} | shown
    assert all(rows[name].interval == (0.0, 0.3) for name in shown)


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
