"""The report card's table of measures: what the stages of a run reported, and what evaluate measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.cluster.storage.artifact import Artifact
from headwater.llm.evaluation import measures, report
from headwater.llm.grounding.measures import wilson
from headwater.llm.stages.models import MODELS
from headwater.llm.stages.rl import RlConfig

SMALL = 100_000_000
"""Parameters of the smallest model known to write sound prose on open subjects: GPT-2 has 124 million
(Radford et al. 2019). Below 10 million it takes a child's vocabulary (Eldan and Li 2023, TinyStories)."""


def metric_rows(inputs: Mapping[str, Artifact], measured: dict[str, Any]) -> list[measures.Metric]:
    found = {name: metrics_of(artifact) for name, artifact in inputs.items()}
    rows = []
    if "clean" in found:
        rows.append(measures.Metric("documents_kept", found["clean"].get("documents_kept")))
    if "pretrain" in found:
        rows += [
            measures.Metric("parameters", found["pretrain"]["parameters"]),
            measures.Metric("mfu", found["pretrain"].get("median_mfu")),
        ]
    elif "base" in found:
        rows.append(measures.Metric("parameters", found["base"].get("parameters")))
    rows += _bits_rows(found, measured["bits_per_byte"])
    if "sft" in found:
        rows.append(measures.Metric("heldout_loss", found["sft"].get("heldout_loss")))
    rows += _dpo_rows(inputs)
    rows += [
        measures.Metric(
            f"reward_accuracy ({kind})",
            share["value"],
            report.MEANINGS["reward_accuracy"],
            baseline=0.5,
            baseline_name="a coin",
            interval=(share["low"], share["high"]),
        )
        for kind, share in measured["reward_accuracy"].items()
    ]
    if "rl" in found:
        rows += _rl_rows(rl_config(inputs["rl"]), found, measured)
    return rows


def _bits_rows(found: Mapping[str, dict[str, Any]], bits: Mapping[str, float]) -> list[measures.Metric]:
    """Bits per byte of the model before fine-tuning, then of each later one that was measured."""
    first = next((name for name in ("pretrain", *MODELS) if name in bits), None)
    if first is None:
        return []
    against: tuple[float | None, str] = (None, "")
    if first == "pretrain":
        unigram = found["pretrain"]["unigram_bits_per_byte"], "unigram model"
        against = (bits["base"], "base") if "base" in bits else unigram
    meaning = report.MEANINGS["bits_per_byte"]
    later = [name for name in MODELS if name in bits and name not in ("base", first)]
    return [measures.Metric("bits_per_byte", bits[first], "", *against)] + [
        measures.Metric(f"bits_per_byte after {name}", bits[name], meaning, bits[first], first)
        for name in later
    ]


def _rl_rows(
    config: RlConfig, found: Mapping[str, dict[str, Any]], measured: dict[str, Any]
) -> list[measures.Metric]:
    kl = measures.Metric("kl", found["rl"]["kl"])
    if "after_rl" not in measured:  # no prompt was held out
        return [kl]
    before, after = measured["before_rl"], measured["after_rl"]
    shown = {"verifiable_reward": "verified"} if config.verifier_name() else {}
    shown |= {"reward": "reward_model"} if "reward" in found else {}
    rows = [
        measures.Metric(
            name, after[key], "", before[key], "before RL", _interval(after.get(f"{key}_interval"))
        )
        for name, key in sorted(shown.items())
    ]
    if "verifiable_reward" in shown:
        meaning, interval = report.MEANINGS["verifiable_reward"], _interval(before.get("verified_interval"))
        rows.append(
            measures.Metric("verifiable_reward before RL", before["verified"], meaning, interval=interval)
        )
    rows.append(
        measures.Metric(
            "total reward",
            after["reward"],
            meaning="What RL maximises: the weighted sum of its rewards. The KL penalty is apart.",
            baseline=before["reward"],
            baseline_name="before RL",
        )
    )
    return [*rows, kl]


def _interval(share: Mapping[str, float] | None) -> tuple[float, float] | None:
    return (share["low"], share["high"]) if share else None


def _dpo_rows(inputs: Mapping[str, Artifact]) -> list[measures.Metric]:
    if "dpo" not in inputs:
        return []
    found = metrics_of(inputs["dpo"])
    accuracy, count = found.get("heldout_accuracy"), found.get("heldout_pairs", 0)
    if accuracy is None or not count:
        return [measures.Metric("dpo_accuracy", accuracy, baseline=0.5, baseline_name="a coin")]
    share = wilson(round(accuracy * count), count)
    interval = share.low, share.high
    return [measures.Metric("dpo_accuracy", accuracy, "", 0.5, "a coin", interval)]


def expectations(inputs: Mapping[str, Artifact]) -> list[str]:
    """What a reader can expect of a small model that was trained from scratch; empty for any other."""
    pretrain = metrics_of(inputs["pretrain"]) if "pretrain" in inputs and "base" not in inputs else {}
    if "tokens" not in pretrain or pretrain["parameters"] >= SMALL:
        return []
    parameters, tokens = pretrain["parameters"] / 1e6, pretrain["tokens"] / 1e6
    return [
        f"This model has {parameters:,.1f} million parameters and was trained from scratch on {tokens:,.1f} "
        "million tokens. GPT-2's smallest model has 124 million parameters and was trained on 40 GB of text.",
        "It can learn which words are frequent, what a headline looks like, and which words of a prompt to "
        "repeat. It cannot learn facts. It invents names and words, and what it writes means nothing.",
        "So compare the measures with their baselines. Answers that quote the corpus are true to it: the "
        "model chooses their sentences and does not write them.",
    ]


def metrics_of(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest()
    return manifest.metrics if manifest else {}


def rl_config(artifact: Artifact) -> RlConfig:
    manifest = artifact.manifest()
    assert manifest is not None, f"{artifact.location} is an input, so it has finished"
    return RlConfig.model_validate(manifest.config)
