"""The reward stage: a Bradley-Terry model of which of two answers people would rank higher."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.tokens.tokenizer import load_tokenizer, padding_id, tokenizer_of
from headwater.llm.examples.chat import encode_conversation
from headwater.llm.examples.encoded import EncodedExamples, describe_examples, pad
from headwater.llm.examples.preferences import Preference
from headwater.llm.model import build
from headwater.llm.rows.order import BatchOrder, ShuffledOrder
from headwater.llm.stages.models import newest_model
from headwater.llm.stages.own_data import example_order
from headwater.llm.stages.preference_pairs import PairConfig, PairStage, prepare_pairs
from headwater.llm.training import loop
from headwater.llm.training.loop import TrainJob, Worker
from headwater.llm.training.objectives import BradleyTerry

COLUMNS = ("chosen", "rejected")


class RewardConfig(PairConfig):
    """Settings of the reward model."""

    learning_rate: float = Field(3e-4, gt=0)
    """Peak learning rate of AdamW."""


class PairBatches:
    """`chosen`, `rejected` [B, L] and their masks [B, L]; both are padded to one length."""

    def __init__(
        self, examples: EncodedExamples, batch: int, seed: int, pad_id: int, order: BatchOrder | None = None
    ) -> None:
        """`order`: default is every pair once per epoch."""
        self.examples, self.pad_id = examples, pad_id
        self.plan = order or ShuffledOrder(len(examples), batch, seed)

    def open(self, worker: Worker) -> None:
        self.rank, self.world_size = worker.rank, worker.world_size

    def batch(self, step: int) -> dict[str, np.ndarray]:
        return pair_arrays(self.examples, self.plan.share(step, self.rank, self.world_size), self.pad_id)

    def metrics(self) -> dict[str, float]:
        return {}

    def describe(self, step: int) -> list[str]:
        """One line per pair of a step's global batch: what it was made from."""
        return describe_examples(self.examples, self.plan.indices(step))


def pair_arrays(examples: EncodedExamples, indices: np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
    arrays = {}
    for side in COLUMNS:
        sequences = examples.gather(side, indices)
        arrays[side] = pad(sequences, pad_id)
        arrays[f"{side}_mask"] = pad([np.ones_like(s) for s in sequences], 0)
    return arrays


class Reward(PairStage[RewardConfig]):
    name = "reward"

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        config = self.config
        tokenizer_folder = tokenizer_of(inputs)
        tokenizer = load_tokenizer(tokenizer_folder.local())
        pad_id = padding_id(tokenizer)
        encode = functools.partial(encode_pair, tokenizer, max_length=config.max_length)
        counts, own = prepare_pairs(self, inputs, output, tokenizer, encode, COLUMNS, session)
        train = EncodedExamples(output, "train")
        order = example_order(train, config.data, config.batch, config.seed)
        history = loop.train(
            TrainJob(
                label="reward",
                config=config,
                objective=BradleyTerry(),
                source=PairBatches(train, config.batch, config.seed, pad_id, order),
                load_model=functools.partial(
                    build.reward_model, newest_model(inputs), new_head_seed=config.seed
                ),
                tokenizer=tokenizer_folder,
                output=output,
            ),
            session,
        )
        recent = [record["accuracy"] for record in history[-20:]]
        session.say(
            f"{len(train):,} pairs; loss {history[0]['loss']:.3f} → {history[-1]['loss']:.3f}, "
            f"accuracy over the last steps {sum(recent) / len(recent):.2f}"
        )
        return {
            "pairs": counts,
            "recent_accuracy": sum(recent) / len(recent),
            **own,
            **loop.summary(history),
        }


def encode_pair(tokenizer: Any, pair: Preference, max_length: int) -> dict[str, list[int]] | None:
    """Token ids of both conversations up to the end of the answer's turn, where the reward is read.

    None if an answer does not begin within `max_length`."""
    encoded = {}
    for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        messages = [*pair.prompt, {"role": "assistant", "content": answer}]
        ids, mask = encode_conversation(tokenizer, messages, max_length)
        if not any(mask):
            return None
        encoded[side] = ids[: len(mask) - mask[::-1].index(1)]
    return encoded
