"""The dpo stage: direct preference optimisation of the newest model, as a rule that of sft.

It learns from the same pairs as the reward model, with one of the losses of `training/losses/`.
For those that compare with the starting model, its log-probability of every answer is computed once before
training and stored next to the encoded pairs: training needs no second model in memory, and the values do not
depend on the number of workers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from headwater.cluster.runtime.parallel import map_units
from headwater.cluster.runtime.pool import Share
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.data_pipeline.tokens.tokenizer import load_tokenizer, padding_id, tokenizer_of
from headwater.llm.examples.encoded import EncodedExamples, Example, pad, write_examples
from headwater.llm.hardware.precision import resolve_precision, torch_dtype
from headwater.llm.model import build
from headwater.llm.rows.order import BatchOrder
from headwater.llm.stages.data.pair_batches import SIDES, HeldoutPairs, PairBatches, pair_arrays, passes
from headwater.llm.stages.data.preference_pairs import PairConfig, PairStage, pair_order, prepare_pairs
from headwater.llm.stages.models import newest_model
from headwater.llm.training import loop
from headwater.llm.training.config import FineTuneConfig
from headwater.llm.training.loop import TrainJob
from headwater.llm.training.losses.objectives import (
    REFERENCE_FREE,
    PairLoss,
    PreferenceOptimisation,
    answer_logprobs,
    masked_logprobs,
)

REFERENCE = "reference"
OTHERS = "others"
"""What the log-probability of another prompt's answer is called (`kto`)."""
PAIRS_PER_UNIT = 512
"""Pairs per unit of work when computing reference log-probabilities."""
BETA = {"simpo": 2.0}
"""Default of `beta` where it is not 0.1. The runs of Meng et al. 2024 (SimPO) have 2 to 10."""
GAMMA = 1.0
"""Default of `gamma`, here half of `beta`: those runs have a tenth to 0.8 of it."""


class DpoConfig(PairConfig, FineTuneConfig):
    """Settings of direct preference optimisation."""

    learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of the matrices."""
    loss: PairLoss = "dpo"
    """Loss of a pair: `dpo`, `ipo` and `kto` compare with the starting model; `simpo` and `orpo` need no such
    reference, and normalise by the answers' lengths."""
    beta: float | None = Field(None, gt=0)
    """Strength of the pull towards the starting model with `dpo`, `ipo` and `kto`: lower values let the model
    move further away. With `simpo` the scale of the rewards, with `orpo` the weight of the comparison beside
    fine-tuning on the chosen answers. Default: 0.1, for `simpo` 2."""
    gamma: float | None = Field(None, ge=0)
    """Margin of rewards that `simpo` asks for. Default: 1."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of pairs that `dpo` takes to be the wrong way round."""

    chosen_weight: float = Field(0.0, ge=0)
    """Weight of fine-tuning on the chosen answers (nats per token) beside the loss. Without it the model may
    forget how to write the better answers as well; with `dpo`, Pang et al. 2024 use 1, Llama 3 has 0.2."""

    @model_validator(mode="after")
    def _possible_with_loss(self) -> DpoConfig:
        if self.gamma is not None and self.loss != "simpo":
            raise ValueError(f"`gamma` belongs to `loss: simpo`; this is `{self.loss}`: remove it")
        if self.label_smoothing and self.loss != "dpo":
            raise ValueError(f"`label_smoothing` belongs to `loss: dpo`; this is `{self.loss}`: remove it")
        if self.chosen_weight and self.loss == "orpo":
            raise ValueError("`loss: orpo` fine-tunes on the chosen answers as it is: remove `chosen_weight`")
        return self

    def objective(self) -> PreferenceOptimisation:
        beta = BETA.get(self.loss, 0.1) if self.beta is None else self.beta
        gamma = GAMMA if self.gamma is None else self.gamma
        return PreferenceOptimisation(
            beta,
            self.loss,
            gamma=gamma,
            label_smoothing=self.label_smoothing,
            chosen_weight=self.chosen_weight,
        )


class AnswerBatches(PairBatches):
    """Batches for `PreferenceOptimisation`: pairs, and what the starting model says of them."""

    def __init__(
        self, output: Artifact, split: str, plan: BatchOrder | None, pad_id: int, config: DpoConfig
    ) -> None:
        super().__init__(EncodedExamples(output, split), plan, pad_id, answers_only=True)
        self.reference = EncodedExamples(output, f"{REFERENCE}/{split}")
        self.config = config

    def arrays(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        arrays = super().arrays(rows)
        if self.config.loss not in REFERENCE_FREE:
            for side in SIDES:
                arrays[f"{REFERENCE}_{side}"] = self._reference(side, rows)
        return arrays

    def _reference(self, side: str, rows: np.ndarray) -> np.ndarray:
        return np.array([values[0] for values in self.reference.gather(side, rows)], np.float32)

    def common(self, rows: np.ndarray, total: int) -> dict[str, float]:
        """For `kto`: `kl`, from other prompts' answers under the current weights, over all ranks' pairs."""
        import torch

        if self.config.loss != "kto":
            return {}
        worker, log_ratio = self.worker, 0.0
        module, training = worker.engine.module, worker.engine.module.training
        module.eval()  # no dropout
        for part, counts in passes(rows, total, worker, self.config.micro_batch):
            ids, mask = (
                torch.from_numpy(a).to(worker.device)
                for a in others_arrays(self.pairs, part, self.pad_id, self.config.max_length)
            )
            with torch.no_grad():
                logprobs = masked_logprobs(worker.engine, ids, mask).double().cpu().numpy()
            if counts:
                log_ratio += float((logprobs - self._reference(OTHERS, part)).sum())
        module.train(training)
        (sum_of_all,) = worker.total([log_ratio])
        return {"kl": max(0.0, sum_of_all / total)}


def others_arrays(
    pairs: EncodedExamples, rows: np.ndarray, pad_id: int, max_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Each prompt with the next pair's chosen answer, cut to fit: ids, and the mask of the answer, [B, L]."""
    ids, masks = [], []
    answers = pairs.gather("chosen", (rows + 1) % len(pairs))
    for prompt, answer in zip(pairs.gather("prompt", rows), answers, strict=True):
        room = max_length - len(prompt)
        ids.append(np.concatenate([prompt, answer[:room]]))
        masks.append(np.concatenate([np.zeros_like(prompt), np.ones_like(answer[:room])]))
    return pad(ids, pad_id), pad(masks, 0, np.uint8)


class ReferenceScorer:
    """Unit worker: pairs of a file → each answer's log-probability (nats) under the starting model.

    Computed in the training precision, so that the model's initial log-ratios are zero.
    """

    def __init__(self, config: DpoConfig, start: Folder, output: Artifact, pad_id: int) -> None:
        import torch

        torch.set_num_threads(1)
        self.config, self.output, self.pad_id = config, output, pad_id
        self.device = torch.device("cuda" if config.gpus_per_worker else "cpu")
        dtype = torch_dtype(resolve_precision(config.precision, config.gpus_per_worker))
        self.model = build.saved_model(start).to(self.device, dtype).eval()
        if self.device.type == "cpu":
            from headwater.llm.model.cpu_kernels import use_kernels

            use_kernels(self.model)  # as in training

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        folder, _, name = unit["file"].rpartition("/")
        pairs = EncodedExamples(self.output, folder)
        first = dict(pairs.files())[name].start
        scored: list[Example] = []
        for start in range(unit["start"], unit["end"], self.config.micro_batch):
            end = min(start + self.config.micro_batch, unit["end"])
            columns = self._scores(pairs, first + np.arange(start, end))
            scored += [
                {column: [value] for column, value in zip(columns, values, strict=True)}
                for values in zip(*columns.values(), strict=True)
            ]
        name = f"{REFERENCE}/{folder}/{unit['unit']}.arrow"
        write_examples(self.output, name, scored, scored[0], pa.float64())
        return {"pairs": len(scored)}

    def _scores(self, pairs: EncodedExamples, rows: np.ndarray) -> dict[str, list[float]]:
        import torch

        arrays = pair_arrays(pairs, rows, self.pad_id, answers_only=True)
        batch = {key: torch.from_numpy(value).to(self.device) for key, value in arrays.items()}
        with torch.inference_mode():
            chosen, rejected = answer_logprobs(self.model, batch).chunk(2)
            scores = {"chosen": chosen.tolist(), "rejected": rejected.tolist()}
            if self.config.loss == "kto":
                others = others_arrays(pairs, rows, self.pad_id, self.config.max_length)
                ids, mask = (torch.from_numpy(array).to(self.device) for array in others)
                scores[OTHERS] = masked_logprobs(self.model, ids, mask).tolist()
        return scores


class Dpo(PairStage[DpoConfig]):
    name = "dpo"
    version = 3
    off_fields = PairStage.off_fields | {"chosen_weight"}

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        config, objective = self.config, self.config.objective()
        start, tokenizer_folder = newest_model(inputs), tokenizer_of(inputs)
        tokenizer = load_tokenizer(tokenizer_folder.local())
        pad_id = padding_id(tokenizer)
        counts, left_out = prepare_pairs(self, inputs, output, tokenizer, session)
        if config.loss not in REFERENCE_FREE:
            map_units(
                session,
                output,
                REFERENCE,
                list(_units(counts)),
                ReferenceScorer,
                worker_args={"config": config, "start": start, "output": output, "pad_id": pad_id},
                size=lambda result: int(result["pairs"]),
                total=sum(counts.values()),
                unit_name="pairs",
                share=Share(cpus=1, gpus=min(1.0, config.gpus_per_worker)),
            )
        pairs = EncodedExamples(output, "train")
        evaluate = None
        if any(count for name, count in counts.items() if name.startswith("heldout/")):
            heldout = AnswerBatches(output, "heldout", None, pad_id, config)
            evaluate = HeldoutPairs(heldout, objective, config.micro_batch)
        history = loop.train(
            TrainJob(
                label="dpo",
                config=config,
                objective=objective,
                source=AnswerBatches(output, "train", pair_order(pairs, config), pad_id, config),
                load_model=functools.partial(
                    build.stored_model, start, config.lora, config.precision, config.gpus_per_worker
                ),
                tokenizer=tokenizer_folder,
                output=output,
                evaluate=evaluate,
                judged_by="heldout_loss" if evaluate else None,
            ),
            session,
        )
        last = history[-1]
        session.say(
            f"{len(pairs):,} pairs; loss {history[0]['loss']:.3f} → {last['loss']:.3f}, "
            f"accuracy {last.get('heldout_accuracy', float('nan')):.0%} on held-out pairs"
        )
        return {
            "pairs": counts,
            "heldout_accuracy": last.get("heldout_accuracy"),
            "heldout_loss": last.get("heldout_loss"),
            "heldout_pairs": len(evaluate.rows) if evaluate else 0,
            **left_out,
            **loop.summary(history),
        }


def _units(counts: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Units named so that their files sort like those of the pairs."""
    for name, count in counts.items():
        for start in range(0, count, PAIRS_PER_UNIT):
            unit = f"{name.replace('/', '-')}-{start:09d}"
            end = min(start + PAIRS_PER_UNIT, count)
            yield {"unit": unit, "file": f"{name}.arrow", "start": start, "end": end}
