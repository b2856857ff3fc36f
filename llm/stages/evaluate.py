"""The evaluate stage: measures every model of the run on held-out data and writes the report card."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import numpy as np

from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Stage, StageConfig
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.cluster.versions import recorded_versions
from headwater.data_pipeline.corpus import iter_documents
from headwater.data_pipeline.tokens.shards import TokenRows
from headwater.llm.evaluation import measures, report
from headwater.llm.examples.conversations import HeadlineTask, headline_tasks
from headwater.llm.examples.encoded import EncodedExamples
from headwater.llm.rl.rollouts import Rollouts
from headwater.llm.stages.pretrain import PretrainConfig
from headwater.llm.stages.rl import (
    RlConfig,
    start_rollout_workers,
    starting_policy,
    stop_actors,
    total_reward,
)
from headwater.llm.training import loop
from headwater.llm.training.bits_per_byte import BitsPerByte

SEED = 20_000_003
"""Seed of the measured answers; differs from all training seeds."""


class EvaluateConfig(StageConfig):
    """Settings of the final evaluation."""

    heldout_prompts: int = 128
    """Held-out headline prompts answered before and after RL."""
    answers: int = 2
    """Answers sampled per prompt. More reduce the noise of the mean reward."""
    pairs: int = 400
    """Held-out preference pairs of each kind for the reward model's accuracy."""
    samples: int = 8
    """Greedy answers shown on the report card."""


class Evaluate(Stage[EvaluateConfig]):
    name = "evaluate"
    inputs = ("acquire", "clean", "tokenizer", "tokenize", "pretrain", "sft", "reward", "rl")
    optional_inputs = ("dpo",)

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        import ray

        session.ray()
        bits = ray.remote(num_cpus=1, max_retries=3)(_bits_per_byte)
        accuracy = ray.remote(num_cpus=1, max_retries=3)(_pair_accuracies)
        bits_tasks = {
            name: bits.remote(Folder(inputs[name], "model"), inputs["tokenize"], inputs["pretrain"])
            for name in ("sft", "dpo", "rl")
            if name in inputs
        }
        accuracy_task = accuracy.remote(inputs["reward"], self.config.pairs)
        with session.progress("evaluate", 3 + len(bits_tasks), "measurements") as shown:
            measured: dict[str, Any] = {"bits_per_byte": {}}
            measured["bits_per_byte"]["pretrain"] = _metrics(inputs["pretrain"])["bits_per_byte"]
            for name, task in bits_tasks.items():
                measured["bits_per_byte"][name] = ray.get(task)
                shown.advance()
            measured["reward_accuracy"] = ray.get(accuracy_task)
            shown.advance()
            answers = self._answers(inputs, session)
            shown.advance(2)
        measured |= {f"{when}_rl": answers[when]["means"] for when in ("before", "after")}
        with output.create_folder("report") as folder:
            report.write_report(folder, self._card(inputs, measured, answers))
        means = [answers[when]["means"]["reward"] for when in ("before", "after")]
        session.say(
            f"reward on held-out prompts {means[0]:.3f} before RL, {means[1]:.3f} after; "
            f"reward model accuracy {_percentages(measured['reward_accuracy'])} on held-out pairs"
        )
        return measured

    def _answers(self, inputs: Mapping[str, Artifact], session: Session) -> dict[str, dict[str, Any]]:
        """Sampled and greedy answers to the same held-out prompts, before and after RL."""
        import ray

        config, rl = self.config, _rl_config(inputs["rl"])
        tasks = list(headline_tasks(iter_documents(inputs["clean"]), "heldout"))[: config.heldout_prompts]
        shown = tasks[: config.samples]
        each = rl.model_copy(update={"rollout_workers": max(1, rl.rollout_workers // 2)})
        actors: list[Any] = []
        calls: dict[str, list[Any]] = {}
        try:
            for when, policy in (("before", starting_policy(inputs)), ("after", inputs["rl"])):
                board, workers = start_rollout_workers(session, inputs, each, policy=policy)
                actors += [board, *workers]
                calls[when] = [workers[0].rollout.remote(shown, 1, SEED, temperature=0.0)]
                for i, worker in enumerate(workers):
                    if share := tasks[i :: len(workers)]:
                        calls[when].append(worker.rollout.remote(share, config.answers, SEED + i))
            found: dict[str, list[Rollouts]] = {when: ray.get(waiting) for when, waiting in calls.items()}
        finally:
            stop_actors(actors)
        return {
            when: {
                "greedy": greedy,
                "greedy_rewards": total_reward(greedy, rl),
                "means": _means(sampled, rl),
                "tasks": shown,
            }
            for when, (greedy, *sampled) in found.items()
        }

    def _card(
        self, inputs: Mapping[str, Artifact], measured: dict[str, Any], answers: dict[str, dict[str, Any]]
    ) -> measures.Report:
        histories = {name: loop.read_history(inputs[name]) for name in ("pretrain", "sft", "reward", "rl")}
        manifests = [manifest for artifact in inputs.values() if (manifest := artifact.manifest())]
        return measures.Report(
            title="Report card",
            metrics=_metric_rows(inputs, measured),
            funnel=_funnel(inputs["clean"]),
            pretrain_loss=_points(histories["pretrain"], "loss"),
            pretrain_speed=_points(histories["pretrain"], "tokens_per_second"),
            validation_bits_per_byte=_points(histories["pretrain"], "bits_per_byte"),
            unigram_bits_per_byte=_metrics(inputs["pretrain"])["unigram_bits_per_byte"],
            sft_loss=_points(histories["sft"], "loss"),
            sft_heldout_loss=_points(histories["sft"], "heldout_loss"),
            reward_loss=_points(histories["reward"], "loss"),
            reward_accuracy=_points(histories["reward"], "heldout_accuracy"),
            rl_reward=_points(histories["rl"], "reward_model"),
            rl_verifiable=_points(histories["rl"], "verified"),
            rl_kl=_points(histories["rl"], "kl"),
            planned=[measures.Planned(**row) for row in _metrics(inputs["pretrain"]).get("planned", [])],
            samples=_samples(answers),
            stages=[measures.StageSummary(m.stage, m.key, m.seconds, m.inputs) for m in manifests],
            machine={"system": platform.platform(), "processor": platform.machine()},
            versions=recorded_versions(),
        )


def _bits_per_byte(model: Folder, tokenize: Artifact, pretrain: Artifact) -> float:
    """Bits per byte of the validation rows, with documents separated if they were in pretraining."""
    import torch

    from headwater.llm.model.build import saved_model

    torch.set_num_threads(1)
    device = torch.device("cpu")  # this task has no GPU reserved, even if one is visible
    manifest = pretrain.manifest()
    assert manifest is not None, f"{pretrain.location} is an input, so it has finished"
    separate = PretrainConfig.model_validate(manifest.config).separate_documents
    evaluation = BitsPerByte(TokenRows(tokenize, "validation"), 8, separate_documents=separate)
    return evaluation.of_model(saved_model(model).eval().to(device), device)


def _pair_accuracies(reward: Artifact, limit: int) -> dict[str, float]:
    """Share of held-out pairs ordered correctly, by kind (one file per kind)."""
    import torch

    from headwater.llm.model.build import reward_model
    from headwater.llm.stages.reward import pair_arrays
    from headwater.llm.training.objectives import rewards

    torch.set_num_threads(1)
    model: Any = reward_model(Folder(reward, "model")).eval()
    accuracies = {}
    for name in reward.files("heldout", ".arrow"):
        examples = EncodedExamples(reward, "heldout", name.rsplit("/", 1)[-1])
        count = min(limit, len(examples))
        right = 0
        for start in range(0, count, 16):
            indices = np.arange(start, min(start + 16, count))
            arrays = pair_arrays(examples, indices, int(model.config.pad_token_id))
            batch = {key: torch.from_numpy(value) for key, value in arrays.items()}
            with torch.inference_mode():
                chosen = rewards(model, batch["chosen"], batch["chosen_mask"])
                rejected = rewards(model, batch["rejected"], batch["rejected_mask"])
            right += int((chosen > rejected).sum())
        accuracies[name.rsplit("/", 1)[-1].removesuffix(".arrow")] = right / max(1, count)
    return accuracies


def _means(parts: list[Rollouts], rl: RlConfig) -> dict[str, float]:
    rewards = np.concatenate([total_reward(part, rl) for part in parts])
    return {
        "reward": float(rewards.mean()),
        "reward_standard_error": float(rewards.std(ddof=1) / len(rewards) ** 0.5),
        "reward_model": float(np.concatenate([part.model_rewards for part in parts]).mean()),
        "verified": float(np.concatenate([part.verified for part in parts]).mean()),
        "answers": len(rewards),
    }


def _metric_rows(inputs: Mapping[str, Artifact], measured: dict[str, Any]) -> list[measures.Metric]:
    clean, pretrain = _metrics(inputs["clean"]), _metrics(inputs["pretrain"])
    before, after = measured["before_rl"], measured["after_rl"]
    rows = [
        measures.Metric("documents_kept", clean.get("documents_kept")),
        measures.Metric("parameters", pretrain["parameters"]),
        measures.Metric("mfu", pretrain.get("median_mfu")),
        measures.Metric(
            "bits_per_byte",
            measured["bits_per_byte"]["pretrain"],
            baseline=pretrain["unigram_bits_per_byte"],
            baseline_name="unigram model",
        ),
        measures.Metric("heldout_loss", _metrics(inputs["sft"]).get("heldout_loss")),
        *_dpo_rows(inputs),
        *(
            measures.Metric(
                f"reward_accuracy ({kind})",
                value,
                meaning=report.MEANINGS["reward_accuracy"],
                baseline=0.5,
                baseline_name="a coin",
            )
            for kind, value in measured["reward_accuracy"].items()
        ),
    ]
    for name, key in (("reward", "reward_model"), ("verifiable_reward", "verified")):
        rows.append(measures.Metric(name, after[key], baseline=before[key], baseline_name="before RL"))
    rows.append(
        measures.Metric(
            "total reward",
            after["reward"],
            meaning="What RL maximises: the weighted sum of the two above, minus the KL penalty.",
            baseline=before["reward"],
            baseline_name="before RL",
        )
    )
    rows.append(measures.Metric("kl", _metrics(inputs["rl"])["kl"]))
    return rows


def _dpo_rows(inputs: Mapping[str, Artifact]) -> list[measures.Metric]:
    if "dpo" not in inputs:
        return []
    accuracy = _metrics(inputs["dpo"]).get("heldout_accuracy")
    return [measures.Metric("dpo_accuracy", accuracy, baseline=0.5, baseline_name="a coin")]


def _funnel(clean: Artifact) -> list[measures.FunnelStep]:
    steps = clean.read_json("funnel.json")["steps"] if clean.exists("funnel.json") else []
    return [measures.FunnelStep(s["step"], s["documents_out"], s["reasons"]) for s in steps]


def _samples(answers: dict[str, dict[str, Any]]) -> list[measures.Sample]:
    before, after = answers["before"], answers["after"]
    tasks: list[HeadlineTask] = before["tasks"]
    return [
        measures.Sample(
            prompt=task.prompt[-1]["content"],
            before=before["greedy"].answers[i],
            after=after["greedy"].answers[i],
            reference=task.reference,
            before_reward=float(before["greedy_rewards"][i]),
            after_reward=float(after["greedy_rewards"][i]),
        )
        for i, task in enumerate(tasks)
    ]


def _percentages(accuracies: dict[str, float]) -> str:
    return ", ".join(f"{value:.0%} ({kind})" for kind, value in accuracies.items())


def _points(history: list[dict[str, float]], name: str) -> list[tuple[float, float]]:
    return [(record["step"], record[name]) for record in history if name in record]


def _metrics(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest()
    return manifest.metrics if manifest else {}


def _rl_config(artifact: Artifact) -> RlConfig:
    manifest = artifact.manifest()
    assert manifest is not None, f"{artifact.location} is an input, so it has finished"
    return RlConfig.model_validate(manifest.config)
