"""The dpo stage: direct preference optimisation of the newest model, as a rule that of sft.

It learns from the same pairs as the reward model. The starting model's log-probability of every answer is
computed once before training and stored next to the encoded pairs: training needs no second model in memory,
and the values do not depend on the number of workers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.parallel import map_units
from headwater.cluster.runtime.pool import Share
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.data_pipeline.tokens.tokenizer import load_tokenizer, padding_id, tokenizer_of
from headwater.llm.examples.chat import encode_answer, encode_prompt
from headwater.llm.examples.encoded import EncodedExamples, Example, describe_examples, pad, write_examples
from headwater.llm.examples.own_data.source import DataSource
from headwater.llm.examples.preferences import Preference
from headwater.llm.hardware.precision import resolve_precision, torch_dtype
from headwater.llm.model import build
from headwater.llm.stages.models import newest_model
from headwater.llm.stages.own_data import example_order
from headwater.llm.stages.preference_pairs import PairConfig, PairStage, prepare_pairs
from headwater.llm.training import loop
from headwater.llm.training.config import FineTuneConfig
from headwater.llm.training.loop import TrainJob, Worker
from headwater.llm.training.objectives import PreferenceOptimisation, answer_logprobs

SIDES = ("chosen", "rejected")
COLUMNS = ("prompt", *SIDES)
REFERENCE = "reference"
PAIRS_PER_UNIT = 512
"""Pairs per unit of work when computing reference log-probabilities."""


class DpoConfig(PairConfig, FineTuneConfig):
    """Settings of direct preference optimisation."""

    learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of the matrices."""
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the starting model: lower values let the model move further away."""


class AnswerBatches:
    """Batches for `PreferenceOptimisation`; both answers are padded to one width."""

    def __init__(
        self,
        output: Artifact,
        split: str,
        batch: int,
        seed: int,
        pad_id: int,
        data: Sequence[DataSource] | None = None,
    ) -> None:
        self.pairs, self.reference = (
            EncodedExamples(output, split),
            EncodedExamples(output, f"{REFERENCE}/{split}"),
        )
        self.plan, self.pad_id = example_order(self.pairs, data, batch, seed), pad_id

    def open(self, worker: Worker) -> None:
        self.rank, self.world_size = worker.rank, worker.world_size

    def batch(self, step: int) -> dict[str, np.ndarray]:
        return self.arrays(self.plan.share(step, self.rank, self.world_size))

    def arrays(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        arrays = answer_arrays(self.pairs, indices, self.pad_id)
        for side in SIDES:
            logprobs = self.reference.gather(side, indices)
            arrays[f"{REFERENCE}_{side}"] = np.array([values.sum() for values in logprobs], np.float32)
        return arrays

    def metrics(self) -> dict[str, float]:
        return {}

    def describe(self, step: int) -> list[str]:
        """One line per pair of a step's global batch: what it was made from."""
        return describe_examples(self.pairs, self.plan.indices(step))


def answer_arrays(pairs: EncodedExamples, indices: np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
    """`chosen`, `rejected` [B, L]: prompt and answer; their masks [B, L]: 1 on answer tokens."""
    prompts = pairs.gather("prompt", indices)
    ids, masks = [], []
    for side in SIDES:
        for prompt, answer in zip(prompts, pairs.gather(side, indices), strict=True):
            ids.append(np.concatenate([prompt, answer]))
            masks.append(np.concatenate([np.zeros_like(prompt), np.ones_like(answer)]))
    chosen_ids, rejected_ids = np.split(pad(ids, pad_id), 2)
    chosen_mask, rejected_mask = np.split(pad(masks, 0, np.uint8), 2)
    return {
        "chosen": chosen_ids,
        "rejected": rejected_ids,
        "chosen_mask": chosen_mask,
        "rejected_mask": rejected_mask,
    }


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
        import torch

        folder, _, name = unit["file"].rpartition("/")
        pairs = EncodedExamples(self.output, folder, name)
        scored: list[Example] = []
        for start in range(unit["start"], unit["end"], self.config.micro_batch):
            indices = np.arange(start, min(start + self.config.micro_batch, unit["end"]))
            arrays = answer_arrays(pairs, indices, self.pad_id)
            batch = {key: torch.from_numpy(value).to(self.device) for key, value in arrays.items()}
            with torch.inference_mode():
                chosen, rejected = answer_logprobs(self.model, batch).chunk(2)
            scored += [
                {"chosen": [c], "rejected": [r]}
                for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True)
            ]
        write_examples(self.output, f"{REFERENCE}/{folder}/{unit['unit']}.arrow", scored, SIDES, pa.float64())
        return {"pairs": len(scored)}


class HeldoutPairs:
    """Loss and accuracy on held-out pairs (the first `limit`), equal on all ranks."""

    def __init__(self, batches: AnswerBatches, config: DpoConfig, limit: int = 256) -> None:
        self.batches, self.objective = batches, PreferenceOptimisation(config.beta)
        self.micro_batch, self.count = config.micro_batch, min(limit, len(batches.pairs))

    def __call__(self, worker: Worker) -> dict[str, float]:
        import torch

        sums = [0.0, 0.0, 0.0]
        stride = worker.world_size * self.micro_batch
        for start in range(0, self.count, stride):
            first = start + worker.rank * self.micro_batch
            wanted = np.arange(first, min(first + self.micro_batch, self.count))
            # Every rank must make every pass (ZeRO-3 gathers in it): without pairs left it repeats the last.
            rows = wanted if wanted.size else np.array([self.count - 1])
            arrays = self.batches.arrays(rows)
            batch = {key: torch.from_numpy(value).to(worker.device) for key, value in arrays.items()}
            with torch.no_grad():
                loss, more = self.objective.loss_sum(worker.engine, batch)
            if wanted.size:
                sums = [sums[0] + float(loss), sums[1] + float(more["accuracy"]), sums[2] + wanted.size]
        loss_sum, right, count = worker.total(sums)
        return {"heldout_loss": loss_sum / count, "heldout_accuracy": right / count}


class Dpo(PairStage[DpoConfig]):
    name = "dpo"

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        config = self.config
        start, tokenizer_folder = newest_model(inputs), tokenizer_of(inputs)
        tokenizer = load_tokenizer(tokenizer_folder.local())
        pad_id = padding_id(tokenizer)
        encode = functools.partial(encode_answers, tokenizer, max_length=config.max_length)
        counts, own = prepare_pairs(self, inputs, output, tokenizer, encode, COLUMNS, session)
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
        train = AnswerBatches(output, "train", config.batch, config.seed, pad_id, config.data)
        held_out = any(count for name, count in counts.items() if name.startswith("heldout/"))
        history = loop.train(
            TrainJob(
                label="dpo",
                config=config,
                objective=PreferenceOptimisation(config.beta),
                source=train,
                load_model=functools.partial(
                    build.saved_model, start, config.lora, config.precision, config.gpus_per_worker
                ),
                tokenizer=tokenizer_folder,
                output=output,
                evaluate=HeldoutPairs(AnswerBatches(output, "heldout", 1, 0, pad_id), config)
                if held_out
                else None,
            ),
            session,
        )
        last = history[-1]
        session.say(
            f"{len(train.pairs):,} pairs; loss {history[0]['loss']:.3f} → {last['loss']:.3f}, "
            f"accuracy {last.get('heldout_accuracy', float('nan')):.0%} on held-out pairs"
        )
        return {
            "pairs": counts,
            "heldout_accuracy": last.get("heldout_accuracy"),
            "heldout_loss": last.get("heldout_loss"),
            **own,
            **loop.summary(history),
        }


def encode_answers(tokenizer: Any, pair: Preference, max_length: int) -> dict[str, list[int]] | None:
    """Ids of the prompt and both answers, each with its end of turn; None if they do not fit `max_length`.

    Both answers share one prompt, shortened to leave room for the longer answer.
    """
    encoded: dict[str, list[int]] = {}
    for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        encoded[side] = encode_answer(tokenizer, answer)
    room = max_length - max(map(len, encoded.values()))
    try:
        return encoded | {"prompt": encode_prompt(tokenizer, pair.prompt, room)}
    except HeadwaterError:  # too long even with an empty prompt
        return None


def _units(counts: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Units named so that their files sort like those of the pairs."""
    for name, count in counts.items():
        for start in range(0, count, PAIRS_PER_UNIT):
            unit = f"{name.replace('/', '-')}-{start:09d}"
            end = min(start + PAIRS_PER_UNIT, count)
            yield {"unit": unit, "file": f"{name}.arrow", "start": start, "end": end}
