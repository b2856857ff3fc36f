"""The reward stage: a Bradley-Terry model of which of two answers people would rank higher."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.tokens.tokenizer import load_tokenizer, padding_id, tokenizer_of
from headwater.llm.examples.encoded import EncodedExamples
from headwater.llm.model import build
from headwater.llm.model.adapters import HEAD
from headwater.llm.stages.data.pair_batches import HeldoutPairs, PairBatches
from headwater.llm.stages.data.preference_pairs import PairConfig, PairStage, pair_order, prepare_pairs
from headwater.llm.stages.models import newest_model
from headwater.llm.training import loop
from headwater.llm.training.config import FineTuneConfig
from headwater.llm.training.loop import TrainJob
from headwater.llm.training.losses.objectives import BradleyTerry


class RewardConfig(PairConfig, FineTuneConfig):
    """Settings of the reward model. With `lora` its head is trained as a whole."""

    learning_rate: float = Field(3e-4, gt=0)
    """Peak learning rate of AdamW."""
    margin: float = Field(0.0, ge=0)
    """Difference of the two rewards at which a pair counts as undecided (Llama 2)."""
    centring: float = Field(0.0, ge=0)
    """Weight of the squared sum of a pair's rewards, such as 0.01, which draws their mean to 0."""

    @model_validator(mode="after")
    def _possible_with_adapters(self) -> RewardConfig:
        if self.lora and self.lora.quantise != "none":
            raise ValueError("`lora.quantise` is not there for a reward model: set it to `none`")
        if self.lora and HEAD in self.lora.targets:
            raise ValueError(f"`lora.targets` names {HEAD}, which is trained as a whole: remove it")
        return self


class Reward(PairStage[RewardConfig]):
    name = "reward"
    version = 3

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        config = self.config
        tokenizer_folder = tokenizer_of(inputs)
        tokenizer = load_tokenizer(tokenizer_folder.local())
        pad_id, objective = padding_id(tokenizer), BradleyTerry(config.margin, config.centring)
        counts, left_out = prepare_pairs(self, inputs, output, tokenizer, session)
        train, heldout = EncodedExamples(output, "train"), EncodedExamples(output, "heldout")
        evaluate = None
        if len(heldout):
            evaluate = HeldoutPairs(PairBatches(heldout, None, pad_id), objective, config.micro_batch)
        history = loop.train(
            TrainJob(
                label="reward",
                config=config,
                objective=objective,
                source=PairBatches(train, pair_order(train, config), pad_id),
                load_model=functools.partial(build.new_reward_model, newest_model(inputs)),
                tokenizer=tokenizer_folder,
                output=output,
                evaluate=evaluate,
                judged_by="heldout_loss" if evaluate else None,
            ),
            session,
        )
        first, last = history[0], history[-1]
        recent = [record["accuracy"] for record in history[-20:]]
        session.say(
            f"{len(train):,} pairs; loss {first['loss']:.3f} → {last['loss']:.3f}, "
            f"accuracy over the last steps {sum(recent) / len(recent):.2f}"
            + (f", {last['heldout_accuracy']:.2f} on held-out pairs" if evaluate else "")
        )
        return {
            "pairs": counts,
            "recent_accuracy": sum(recent) / len(recent),
            "heldout_accuracy": last.get("heldout_accuracy"),
            "heldout_loss": last.get("heldout_loss"),
            **left_out,
            **loop.summary(history),
        }
