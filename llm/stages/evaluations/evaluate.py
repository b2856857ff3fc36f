"""The evaluate stage: measures every model of the run on held-out data and writes the report card."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from pydantic import Field

from headwater.cluster.runtime.needs import Moments, pool
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Input, Stage, StageConfig
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.cluster.versions import recorded_versions
from headwater.data_pipeline.tokens.shards import TokenRows
from headwater.data_pipeline.tokens.tokenizer import load_tokenizer, tokenizer_of
from headwater.llm.benchmarks import results
from headwater.llm.evaluation import grounded, measures, report
from headwater.llm.examples.chat import decode_answer
from headwater.llm.examples.encoded import EncodedExamples
from headwater.llm.examples.tasks import Task
from headwater.llm.grounding.measures import wilson
from headwater.llm.grounding.prompt import FULL_INSTRUCTION
from headwater.llm.grounding.tasks import read_tasks
from headwater.llm.inference import Sampling
from headwater.llm.inference import pool as engines
from headwater.llm.rl.rollouts.search import OpenIndex
from headwater.llm.rl.rollouts.worker import Rollouts
from headwater.llm.stages.evaluations.metric_rows import expectations, metric_rows, metrics_of, rl_config
from headwater.llm.stages.models import MODELS, newest_model, starting_model
from headwater.llm.stages.pretrain import PretrainConfig
from headwater.llm.stages.rl import (
    RlConfig,
    start_rollout_workers,
    starting_policy,
    stop_actors,
    tasks_of,
    total_reward,
)
from headwater.llm.training import loop
from headwater.llm.training.bits_per_byte import BitsPerByte

SEED = 20_000_003
"""Seed of the measured answers; differs from all training seeds."""
SAMPLE_TOKENS = 128
"""Maximum tokens of an answer shown on the report card of a run without RL."""

GROUNDED_SAMPLES = 10
"""Questions with passages whose answers are on the report card."""


class EvaluateConfig(StageConfig):
    """Settings of the final evaluation."""

    heldout_prompts: int = Field(128, ge=1)
    """Held-out prompts answered before and after RL."""
    answers: int = Field(2, ge=1)
    """Answers sampled per prompt. More reduce the noise of the mean reward."""
    pairs: int = Field(400, ge=1)
    """Held-out preference pairs of each kind for the reward model's accuracy."""
    samples: int = Field(8, ge=1)
    """Greedy answers shown on the report card."""
    grounded_questions: int = Field(100, ge=0)
    """Held-out tasks of the stage `grounded` that are measured and whose passages have an answer."""
    unanswerable: int = Field(30, ge=0)
    """The same, whose passages have none."""


class Evaluate(Stage[EvaluateConfig]):
    name = "evaluate"
    inputs = tuple(
        Input((name,), required=False)
        for name in (
            "acquire",
            "clean",
            "base",
            "tokenizer",
            "tokenize",
            "pretrain",
            "sft",
            "dpo",
            "reward",
            "rl",
            "grounded",
            "benchmarks",
        )
    )
    off_fields = frozenset({"grounded_questions", "unanswerable"})
    open_index: OpenIndex | None = None
    """As that of `Rl`."""

    def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
        rl = settings.get("rl")
        if not isinstance(rl, RlConfig):
            return [pool()]
        return [pool(), [rl.rollouts(2 * _workers_of_a_policy(rl), "rl.")]]

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        import ray

        session.ray()
        bits = ray.remote(num_cpus=1, max_retries=3)(bits_per_byte)
        accuracy = ray.remote(num_cpus=1, max_retries=3)(pair_accuracies)
        bits_tasks = {
            name: bits.remote(Folder(inputs[name], "model"), inputs["tokenize"], inputs.get("pretrain"))
            for name in MODELS
            if name in inputs and name != "pretrain" and "tokenize" in inputs
        }
        accuracy_task = accuracy.remote(inputs["reward"], self.config.pairs) if "reward" in inputs else None
        with session.progress("evaluate", 3 + len(bits_tasks), "measurements") as shown:
            measured: dict[str, Any] = {"bits_per_byte": {}}
            if "pretrain" in inputs:
                measured["bits_per_byte"]["pretrain"] = metrics_of(inputs["pretrain"])["bits_per_byte"]
            for name, task in bits_tasks.items():
                measured["bits_per_byte"][name] = ray.get(task)
                shown.advance()
            measured["reward_accuracy"] = ray.get(accuracy_task) if accuracy_task else {}
            shown.advance()
            answers = self._answers(inputs, session) if "rl" in inputs else {}
            samples = _samples(answers) if answers else self._fine_tuned_samples(inputs, session)
            shown.advance(2)
        cited = self._grounded(inputs, session)
        if cited:
            measured["grounded"] = cited.metrics()
            for line in cited.told():
                session.say(line)
        measured |= {f"{when}_rl": answers[when]["means"] for when in answers}
        with output.create_folder("report") as folder:
            report.write_report(folder, self._card(inputs, measured, samples, cited))
        if answers:
            before, after = (answers[when]["means"] for when in ("before", "after"))
            session.say(
                f"reward on held-out prompts {before['reward']:.3f} before RL, {after['reward']:.3f} after"
            )
            if rl_config(inputs["rl"]).verifier_name():
                shares = [_told(means["verified_interval"]) for means in (before, after)]
                count = before["verified_interval"]["count"]
                session.say(
                    f"verified on {count:,} held-out prompts: {shares[0]} before RL, {shares[1]} after"
                )
        if accuracies := measured["reward_accuracy"]:
            session.say(f"reward model accuracy {_percentages(accuracies)} on held-out pairs")
        return measured

    def _answers(self, inputs: Mapping[str, Artifact], session: Session) -> dict[str, dict[str, Any]]:
        """Sampled and greedy answers to the same held-out prompts, before and after RL; empty without any."""
        import ray

        config, rl = self.config, rl_config(inputs["rl"])
        tasks = tasks_of(rl, inputs)["heldout"][: config.heldout_prompts]
        if not tasks:
            return {}
        shown = tasks[: config.samples]
        each = rl.model_copy(update={"rollout_workers": _workers_of_a_policy(rl)})
        actors: list[Any] = []
        calls: dict[str, list[Any]] = {}
        try:
            for when, policy in (("before", starting_policy(inputs)), ("after", inputs["rl"])):
                board, workers = start_rollout_workers(
                    session, inputs, each, policy=policy, open_index=self.open_index
                )
                actors += [board, *workers]
                calls[when] = [workers[0].rollout.remote(shown, 1, SEED, temperature=0.0, compare=False)]
                for i, worker in enumerate(workers):
                    if share := tasks[i :: len(workers)]:
                        places = list(range(i, len(tasks), len(workers)))
                        asked = worker.rollout.remote(
                            share, config.answers, SEED, places=places, compare=False
                        )
                        calls[when].append(asked)
            found: dict[str, list[Rollouts]] = {when: ray.get(waiting) for when, waiting in calls.items()}
        finally:
            stop_actors(actors)
        return {
            when: {
                "greedy": greedy,
                "greedy_rewards": total_reward(greedy, rl),
                "means": _means(sampled, rl, config.answers),
                "tasks": shown,
            }
            for when, (greedy, *sampled) in found.items()
        }

    def _grounded(self, inputs: Mapping[str, Artifact], session: Session) -> grounded.Answered | None:
        """Answers to held-out grounded tasks: by the first model with a full instruction and with that of
        training, and by the newest one."""
        if "grounded" not in inputs:
            return None
        tasks = read_tasks(inputs["grounded"], "heldout")
        chosen = grounded.chosen(tasks, self.config.grounded_questions, self.config.unanswerable)
        if not chosen:
            return None
        start = starting_model(inputs)
        candidates = [
            grounded.Candidate("good prompt", start, FULL_INSTRUCTION),
            grounded.Candidate("before training", start),
        ]
        if (last := newest_model(inputs)) != start:
            candidates.append(grounded.Candidate("after training", last))
        return grounded.answer_tasks(session, chosen, candidates)

    def _fine_tuned_samples(self, inputs: Mapping[str, Artifact], session: Session) -> list[measures.Sample]:
        """Greedy answers to held-out prompts of fine-tuning, by the model it started from and the newest."""
        if "sft" not in inputs or not inputs["sft"].files("heldout", ".arrow"):
            return []
        tokenizer = load_tokenizer(tokenizer_of(inputs).local())
        examples = EncodedExamples(inputs["sft"], "heldout")
        rows = np.arange(min(self.config.samples, len(examples)))
        masks = examples.gather("mask", rows)
        starts = [int(mask.argmax()) for mask in masks]
        ids = examples.gather("ids", rows)
        prompts = [row[:start].tolist() for row, start in zip(ids, starts, strict=True)]
        answers = [
            engines.generate(
                session, label, model, prompts, Sampling(max_tokens=SAMPLE_TOKENS, temperature=0.0)
            )
            for label, model in (
                ("answers before", starting_model(inputs)),
                ("answers after", newest_model(inputs)),
            )
        ]
        return [
            measures.Sample(
                prompt=str(tokenizer.decode(prompts[i], skip_special_tokens=True)),
                before=decode_answer(tokenizer, answers[0][i].ids),
                after=decode_answer(tokenizer, answers[1][i].ids),
                reference=decode_answer(tokenizer, ids[i][starts[i] :].tolist()),
            )
            for i in rows
        ]

    def _card(
        self,
        inputs: Mapping[str, Artifact],
        measured: dict[str, Any],
        samples: list[measures.Sample],
        cited: grounded.Answered | None,
    ) -> measures.Report:
        trained = ("pretrain", "sft", "reward", "rl")
        histories = {name: loop.read_history(inputs[name]) if name in inputs else [] for name in trained}
        manifests = [manifest for artifact in inputs.values() if (manifest := artifact.manifest())]
        pretrain = metrics_of(inputs["pretrain"]) if "pretrain" in inputs else {}
        verifier = rl_config(inputs["rl"]).verifier_name() if "rl" in inputs else None
        return measures.Report(
            title="Report card",
            summary=expectations(inputs),
            metrics=metric_rows(inputs, measured),
            funnel=_funnel(inputs["clean"]) if "clean" in inputs else [],
            pretrain_loss=_points(histories["pretrain"], "loss"),
            pretrain_speed=_points(histories["pretrain"], "tokens_per_second"),
            validation_bits_per_byte=_points(histories["pretrain"], "bits_per_byte"),
            unigram_bits_per_byte=pretrain.get("unigram_bits_per_byte"),
            sft_loss=_points(histories["sft"], "loss"),
            sft_heldout_loss=_points(histories["sft"], "heldout_loss"),
            reward_loss=_points(histories["reward"], "loss"),
            reward_accuracy=_points(histories["reward"], "heldout_accuracy"),
            rl_reward=_points(histories["rl"], "reward_model") if "reward" in inputs else [],
            rl_verifiable=_points(histories["rl"], "verified") if verifier else [],
            rl_heldout_verifiable=_points(histories["rl"], "heldout_verified") if verifier else [],
            rl_kl=_points(histories["rl"], "kl"),
            planned=[measures.Planned(**row) for row in pretrain.get("planned", [])],
            samples=samples,
            benchmarks=results.table(metrics_of(inputs["benchmarks"])) if "benchmarks" in inputs else None,
            grounded=cited.table() if cited else None,
            grounded_samples=cited.samples(GROUNDED_SAMPLES) if cited else [],
            trained="RL" if "rl" in inputs else "fine-tuning",
            stages=[measures.StageSummary(m.stage, m.key, m.seconds, m.inputs) for m in manifests],
            machine={"system": platform.platform(), "processor": platform.machine()},
            versions=recorded_versions(),
        )


def _workers_of_a_policy(rl: RlConfig) -> int:
    """Rollout workers that answer before RL, and as many after it, at the same time."""
    return max(1, rl.rollout_workers // 2)


def bits_per_byte(model: Folder, tokenize: Artifact, pretrain: Artifact | None) -> float:
    """Bits per byte of the validation rows, with documents separated if they were in pretraining."""
    import torch

    from headwater.llm.model.build import saved_model

    torch.set_num_threads(1)
    device = torch.device("cpu")  # this task has no GPU reserved, even if one is visible
    manifest = pretrain.manifest() if pretrain else None
    separate = bool(manifest and PretrainConfig.model_validate(manifest.config).separate_documents)
    evaluation = BitsPerByte(TokenRows(tokenize, "validation"), 8, separate_documents=separate)
    return evaluation.of_model(saved_model(model).eval().to(device), device)


def pair_accuracies(reward: Artifact, limit: int) -> dict[str, dict[str, float]]:
    """Share of held-out pairs ordered correctly, with its interval, by kind (one file per kind)."""
    import torch

    from headwater.llm.model.build import reward_model
    from headwater.llm.model.cpu_kernels import use_kernels
    from headwater.llm.stages.data.pair_batches import even_share, pair_arrays
    from headwater.llm.training.losses.shared_prompts import pair_rewards

    torch.set_num_threads(1)
    model: Any = reward_model(Folder(reward, "model")).eval()
    use_kernels(model)
    accuracies: dict[str, dict[str, float]] = {}
    for name in reward.files("heldout", ".arrow"):
        examples = EncodedExamples(reward, "heldout", name.rsplit("/", 1)[-1])
        rows, right = even_share([range(len(examples))], limit), 0
        for start in range(0, len(rows), 16):
            arrays = pair_arrays(examples, rows[start : start + 16], int(model.config.pad_token_id))
            batch = {key: torch.from_numpy(value) for key, value in arrays.items()}
            with torch.inference_mode():
                chosen, rejected = pair_rewards(model, batch)
            right += int((chosen > rejected).sum())
        accuracies[name.rsplit("/", 1)[-1].removesuffix(".arrow")] = asdict(wilson(right, len(rows)))
    return accuracies


def _means(parts: list[Rollouts], rl: RlConfig, answers: int) -> dict[str, Any]:
    """Means over all answers that were judged, `answers` to each prompt. The interval counts prompts."""
    parts = [part.judged() for part in parts]
    verified = np.concatenate([part.verified for part in parts])
    prompts = -(-len(verified) // answers)
    rewards = np.concatenate([total_reward(part, rl) for part in parts])
    return {
        "reward": float(rewards.mean()),
        "reward_standard_error": float(rewards.std(ddof=1) / len(rewards) ** 0.5),
        "reward_model": float(np.concatenate([part.model_rewards for part in parts]).mean()),
        "verified": float(verified.mean()),
        "verified_interval": asdict(wilson(float(verified.mean()) * prompts, prompts)),
        "answers": len(rewards),
    }


def _funnel(clean: Artifact) -> list[measures.FunnelStep]:
    steps = clean.read_json("funnel.json")["steps"] if clean.exists("funnel.json") else []
    return [measures.FunnelStep(s["step"], s["documents_out"], s["reasons"]) for s in steps]


def _samples(answers: dict[str, dict[str, Any]]) -> list[measures.Sample]:
    before, after = answers["before"], answers["after"]
    tasks: list[Task] = before["tasks"]
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


def _told(share: dict[str, float]) -> str:
    return f"{share['value']:.1%} ({share['low']:.1%} to {share['high']:.1%})"


def _percentages(accuracies: dict[str, dict[str, float]]) -> str:
    return ", ".join(f"{share['value']:.0%} ({kind})" for kind, share in accuracies.items())


def _points(history: list[dict[str, float]], name: str) -> list[tuple[float, float]]:
    return [(record["step"], record[name]) for record in history if name in record]
