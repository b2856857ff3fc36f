"""The reward stage: a Bradley-Terry model of which of two answers people would rank higher.

Pairs come from the corpus (the true headline against another article's), from the model (the
true headline against the fine-tuned model's own) and from the rankings that people left in the
store.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from cluster.artifact import Artifact, Folder
from cluster.session import Session
from cluster.stage import Stage
from data_pipeline.corpus import iter_documents
from data_pipeline.tokenizer import load_tokenizer
from llm import model, trainer
from llm.batches import BatchPlan
from llm.chat import decode_answer, encode_conversation, encode_prompt
from llm.conversations import HeadlineTask, headline_tasks, split_of
from llm.engine import Sampling, pool
from llm.examples import Example, Examples, describe_examples, pad, write_examples
from llm.objectives import BradleyTerry
from llm.preferences import Preference, headline_pairs, rankings_fingerprint, read_rankings
from llm.train_config import RUNTIME_FIELDS, TrainConfig
from llm.trainer import TrainJob, Worker

COLUMNS = ("chosen", "rejected")


class RewardConfig(TrainConfig):
    """Settings of the reward model."""

    learning_rate: float = 3e-4
    corpus_pairs: int = 10_000
    """At most so many articles whose true headline stands against another article's; 0 for none."""
    model_pairs: int = 512
    """Prompts for which the model's own headline is the rejected one; 0 for none."""
    rankings: bool = True
    """Learn from what people ranked at the endpoint, too."""
    max_length: int = 320
    max_new_tokens: int = 32


class PairBatches:
    """`chosen`, `rejected` [B, L] and their masks; both sides are padded to one length."""

    def __init__(self, examples: Examples, batch: int, seed: int, pad_id: int) -> None:
        self.examples, self.plan, self.pad_id = examples, BatchPlan(len(examples), batch, seed), pad_id

    def open(self, worker: Worker) -> None:
        self.rank, self.world_size = worker.rank, worker.world_size

    def batch(self, step: int) -> dict[str, np.ndarray]:
        return pair_arrays(self.examples, self.plan.share(step, self.rank, self.world_size), self.pad_id)

    def metrics(self) -> dict[str, float]:
        return {}

    def describe(self, step: int) -> list[str]:
        """What the pairs of a step's global batch were made from, one line each."""
        return describe_examples(self.examples, self.plan.indices(step))


def pair_arrays(examples: Examples, indices: np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
    arrays = {}
    for side in COLUMNS:
        sequences = examples.gather(side, indices)
        arrays[side] = pad(sequences, pad_id)
        arrays[f"{side}_mask"] = pad([np.ones_like(s) for s in sequences], 0)
    return arrays


class Reward(Stage[RewardConfig]):
    name = "reward"
    inputs = ("clean", "tokenizer", "sft")
    runtime_fields = RUNTIME_FIELDS

    def fingerprint(self, session: Session) -> dict[str, Any]:
        return rankings_fingerprint(session.store) if self.config.rankings else {}

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        config = self.config
        tokenizer_folder = Folder(inputs["tokenizer"], "tokenizer")
        if not output.exists("pairs.json"):
            counts = self._write_pairs(inputs, tokenizer_folder, output, session)
            output.write_json("pairs.json", counts)
        counts = output.read_json("pairs.json")
        pad_id = int(load_tokenizer(tokenizer_folder.local()).pad_token_id)
        train = Examples(output, "train")
        history = trainer.train(
            TrainJob(
                label="reward",
                config=config,
                objective=BradleyTerry(),
                source=PairBatches(train, config.batch, config.seed, pad_id),
                load_model=functools.partial(
                    model.reward_model, Folder(inputs["sft"], "model"), new_head_seed=config.seed
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
        return {"pairs": counts, "recent_accuracy": sum(recent) / len(recent), **trainer.summary(history)}

    def _write_pairs(
        self, inputs: Mapping[str, Artifact], tokenizer_folder: Folder, output: Artifact, session: Session
    ) -> dict[str, int]:
        """Encode all pairs: `train/`, and one file a kind in `heldout/`, which is never trained on."""
        config = self.config
        tokenizer = load_tokenizer(tokenizer_folder.local())
        documents = list(iter_documents(inputs["clean"]))
        kinds: dict[str, list[Preference]] = {}
        for split in ("train", "heldout"):
            own = [d for d in documents if split_of(d["id"]) == split]
            if config.corpus_pairs:
                kinds[f"{split}/corpus"] = headline_pairs(own, config.seed)[: config.corpus_pairs]
            if config.model_pairs:
                share = 1.0 if split == "train" else 0.25
                tasks = list(headline_tasks(own, split))[: int(config.model_pairs * share)]
                kinds[f"{split}/model"] = self._against_model(tasks, inputs["sft"], tokenizer, session)
        if config.rankings:
            kinds["train/people"] = read_rankings(session.store)
        for name, pairs in kinds.items():
            examples: list[Example] = [encode_pair(tokenizer, pair, config.max_length) for pair in pairs]
            if examples:
                origins = [pair.origins for pair in pairs]
                write_examples(output, f"{name}.arrow", examples, COLUMNS, origins=origins)
        return {name: len(pairs) for name, pairs in kinds.items()}

    def _against_model(
        self, tasks: list[HeadlineTask], sft: Artifact, tokenizer: Any, session: Session
    ) -> list[Preference]:
        config = self.config
        room = config.max_length - config.max_new_tokens
        prompts = [encode_prompt(tokenizer, task.prompt, room) for task in tasks]
        completions = pool.generate(
            session,
            "own headlines",
            Folder(sft, "model"),
            prompts,
            Sampling(max_tokens=config.max_new_tokens, seed=config.seed),
            gpus=min(1.0, config.gpus_per_worker),
        )
        pairs = []
        for task, completion in zip(tasks, completions, strict=True):
            answer = decode_answer(tokenizer, completion.ids)
            if answer and answer != task.reference:
                pairs.append(Preference(task.prompt, task.reference, answer, "model", (task.document_id,)))
        return pairs


def encode_pair(tokenizer: Any, pair: Preference, max_length: int) -> dict[str, list[int]]:
    """Token ids of both conversations up to the end of the answer's turn, where the reward is read."""
    encoded = {}
    for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        messages = [*pair.prompt, {"role": "assistant", "content": answer}]
        ids, mask = encode_conversation(tokenizer, messages, max_length)
        encoded[side] = ids[: len(mask) - mask[::-1].index(1)]
    return encoded
