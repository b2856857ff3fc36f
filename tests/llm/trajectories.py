"""Losses of a small run under every sharding: `test_invariance.py` and `benchmarks/training/invariance.py`.

The same texts and pairs, in the same order, whatever the number of workers, the ZeRO stage, the micro-batch
and the layout of the rows. Ranks are processes of their own over gloo, without Ray.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.data_pipeline.tokens.packing import document_positions
from headwater.llm.rl.losses import Policy
from headwater.llm.rows.order import ShuffledOrder
from headwater.llm.training import engine as training_engine
from headwater.llm.training.config import TrainConfig
from headwater.llm.training.loop import TrainJob, Worker, train_step
from headwater.llm.training.losses.objectives import (
    BradleyTerry,
    NextToken,
    Objective,
    PreferenceOptimisation,
)
from headwater.llm.training.zero_config import ZeroConfig
from tests.llm.ranks import on_ranks

STEPS = 50
TOLERANCE = 1e-5
"""Largest relative deviation of a step's loss in fp32."""
WORDS, END, PAD, LENGTH = 128, 0, 1, 24
PAIRS_PER_STEP = 8
"""Texts or pairs of a step, two by two: a batch of 4 rows of two texts, or of 8 rows of one."""


@dataclass(frozen=True)
class Case:
    """One way of cutting up a run."""

    objective: str
    stage: int = 0
    workers: int = 1
    micro_batch: int = PAIRS_PER_STEP
    """In texts or pairs."""
    joined: bool = False
    """Texts: two in a row, kept apart. Others: padded to one width, not to the longest of the batch."""
    optimizer: str = "adamw"
    attempt: int = 0
    """The same again."""

    def __str__(self) -> str:
        layout = {False: "one a row", True: "packed"} if self.objective in TEXTS else PADDING
        return (
            f"{self.objective:<10} {self.optimizer:<5} ZeRO {self.stage}  {self.workers} workers  "
            f"micro-batch {self.micro_batch}  {layout[self.joined]}"
        )


TEXTS = ("next token", "sft")
PADDING = {False: "narrow", True: "wide"}
PAIRS = ("reward", "dpo")
POLICY = "policy"
OBJECTIVES = (*TEXTS, *PAIRS, POLICY)


class Texts:
    """Texts of 4 to 10 words with something to learn in them; sft learns their second halves alone."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.plan = ShuffledOrder(
            32, PAIRS_PER_STEP // 2, seed=1
        )  # of twos, so that both layouts have a row a unit

    def open(self, worker: Worker) -> None:
        self.worker = worker

    def batch(self, step: int) -> dict[str, np.ndarray]:
        twos = self.plan.indices(step)
        if self.case.joined:
            rows = [[2 * two, 2 * two + 1] for two in twos]
        else:
            rows = [[number] for two in twos for number in (2 * two, 2 * two + 1)]
        first, last = (len(rows) * (self.worker.rank + more) // self.worker.world_size for more in (0, 1))
        ids = np.full((last - first, LENGTH), PAD)
        mask = np.zeros((last - first, LENGTH), np.uint8)
        for row, numbers in enumerate(rows[first:last]):
            place = 0
            for number in numbers:
                text, learnt = _text(number, halves=self.case.objective == "sft")
                ids[row, place : place + len(text)] = text
                mask[row, place + 1 : place + len(text)] = learnt[1:]
                place += len(text) - 1  # its closing end opens the next
        return {"ids": ids, "mask": mask, "positions": document_positions(ids[:, :-1], END)}

    def metrics(self) -> dict[str, float]:
        return {}


class PairsOf:
    """A text as the chosen one, and its words shuffled as the rejected one."""

    def __init__(self, case: Case) -> None:
        self.case, self.plan = case, ShuffledOrder(32, PAIRS_PER_STEP, seed=1)

    def open(self, worker: Worker) -> None:
        self.worker = worker

    def batch(self, step: int) -> dict[str, np.ndarray]:
        numbers = self.plan.share(step, self.worker.rank, self.worker.world_size).tolist()
        texts = [_text(number, halves=True) for number in numbers]
        width = LENGTH if self.case.joined else max(len(text) for text, _ in texts)
        batch = {}
        for side in ("chosen", "rejected"):
            ids, mask = np.full((len(texts), width), PAD), np.zeros((len(texts), width), np.uint8)
            for row, (text, learnt) in enumerate(texts):
                words = text if side == "chosen" else np.concatenate([text[:1], text[:0:-1]])
                ids[row, : len(text)] = words
                mask[row, : len(text)] = learnt if self.case.objective == "dpo" else 1
            batch |= {side: ids, f"{side}_mask": mask}
            if self.case.objective == "dpo":
                batch[f"reference_{side}"] = np.array(
                    [-5.0 * learnt.sum() for _, learnt in texts], np.float32
                )
        return batch

    def metrics(self) -> dict[str, float]:
        return {}


class Sampled:
    """A text and one with its second half reversed, as a good and a bad answer to its first half."""

    def __init__(self, case: Case) -> None:
        self.case, self.plan = case, ShuffledOrder(32, PAIRS_PER_STEP // 2, seed=1)

    def open(self, worker: Worker) -> None:
        self.worker = worker

    def batch(self, step: int) -> dict[str, np.ndarray]:
        numbers = self.plan.share(step, self.worker.rank, self.worker.world_size).tolist()
        texts = [_text(number, halves=True) for number in numbers]
        width = LENGTH if self.case.joined else max(len(text) for text, _ in texts)
        ids, mask = np.full((2 * len(texts), width), PAD), np.zeros((2 * len(texts), width), np.float32)
        for row, (text, learnt) in enumerate(texts):
            half = len(text) // 2
            ids[2 * row, : len(text)] = text
            ids[2 * row + 1, : len(text)] = np.concatenate([text[:half], text[half:][::-1]])
            mask[2 * row : 2 * row + 2, : len(text)] = learnt
        logprobs = np.full(ids.shape, -5.0, np.float32)  # of a uniform choice, nearly
        advantages = np.tile(np.array([1.0, -0.25], np.float32), len(texts))
        return {"ids": ids, "mask": mask, "advantages": advantages} | {
            "old_logprobs": logprobs,
            "reference_logprobs": logprobs - 0.1,
        }

    def metrics(self) -> dict[str, float]:
        return {}


def _text(number: int, *, halves: bool) -> tuple[np.ndarray, np.ndarray]:
    """Ids with an end before and after, and 1 where they are learnt."""
    random = np.random.default_rng(number)
    words = np.cumsum(random.integers(1, 4, random.integers(4, 11))) + random.integers(2, WORDS - 40)
    ids = np.concatenate([[END], words, [END]])
    learnt = (np.arange(len(ids)) >= (len(ids) // 2 if halves else 0)).astype(np.uint8)
    return ids, learnt


def model(objective: str) -> torch.nn.Module:
    """Two layers of 64 with grouped heads' worth of everything that a larger one has."""
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification

    config = Qwen3Config(
        vocab_size=WORDS, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, max_position_embeddings=64,
        tie_word_embeddings=True, pad_token_id=PAD, num_labels=1,
    )  # fmt: skip
    torch.manual_seed(0)
    kind: Any = Qwen3ForSequenceClassification if objective == "reward" else Qwen3ForCausalLM
    return kind(config).float()


def objective_of(name: str) -> Objective:
    if name == "reward":
        return BradleyTerry()
    if name == "dpo":
        return PreferenceOptimisation(0.1)
    if name == POLICY:
        return Policy(clip=0.5, kl=0.05)
    return NextToken()


def run(case: Case, steps: int) -> list[float]:
    """The loss of every step, on the ranks of this group."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    per_row = 2 if case.joined and case.objective in TEXTS else 1
    config = TrainConfig(
        steps=steps,
        batch=PAIRS_PER_STEP // per_row,
        micro_batch=max(1, case.micro_batch // per_row),
        workers=world_size,
        zero=ZeroConfig(stage=case.stage),  # type: ignore[arg-type]
        precision="fp32",
        optimizer=case.optimizer,  # type: ignore[arg-type]
        learning_rate=1e-3,
    )
    engine = training_engine.build(model(case.objective), config, world_size)
    nowhere = Artifact("/nowhere")
    source: Any = PairsOf(case)
    if case.objective in TEXTS:
        source = Texts(case)
    elif case.objective == POLICY:
        source = Sampled(case)
    job = TrainJob(
        "test",
        config,
        objective_of(case.objective),
        source,
        lambda: model(case.objective),
        Folder(nowhere, "model"),
        nowhere,
    )
    worker = Worker(rank, world_size, engine, engine.device)
    source.open(worker)
    return [train_step(job, worker, step)["loss"] for step in range(steps)]


Trajectories = dict[Case, list[float]]


def losses(cases: Iterable[Case], steps: int = STEPS) -> Iterator[tuple[Case, list[float]]]:
    """Each case's losses; those of one objective and number of workers share their processes."""
    groups: dict[tuple[str, int], list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.objective, case.workers].append(case)
    with tempfile.TemporaryDirectory() as folder:
        for number, ((_, workers), group) in enumerate(groups.items()):
            path = Path(folder) / f"{number}.jsonl"
            on_ranks(workers, _run_all, group, steps, path)
            for line in path.read_text().splitlines():
                found = json.loads(line)
                yield Case(**found["case"]), found["losses"]


def _run_all(cases: list[Case], steps: int, path: Path) -> None:
    for case in cases:
        found = run(case, steps)
        if dist.get_rank() == 0:
            with path.open("a") as stream:
                stream.write(json.dumps({"case": asdict(case), "losses": found}) + "\n")


def deviation(found: list[float], reference: list[float]) -> float:
    """Largest relative deviation of a step's loss."""
    return float(np.max(np.abs(np.array(found) / np.array(reference) - 1)))
