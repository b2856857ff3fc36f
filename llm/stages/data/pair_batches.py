"""Batches of encoded preference pairs, and the held-out pairs that judge a model while it trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from headwater.llm.examples.encoded import EncodedExamples, describe_examples, pad
from headwater.llm.rows.order import BatchOrder
from headwater.llm.rows.permutation import permutation
from headwater.llm.training.job import Worker
from headwater.llm.training.losses.objectives import Objective

SIDES = ("chosen", "rejected")
COLUMNS = ("prompt", *SIDES)
"""Of the files of encoded pairs (`preferences.encode_pair`)."""
HELDOUT_PAIRS = 256
"""Maximum held-out pairs of an evaluation during training."""


class PairBatches:
    """`chosen`, `rejected` [B, L], each prompt and answer, and their masks [B, L]; all of one width."""

    def __init__(
        self, pairs: EncodedExamples, plan: BatchOrder | None, pad_id: int, *, answers_only: bool = False
    ) -> None:
        """`plan`: may be missing where only `arrays` is called. `answers_only`: masks are 1 on the answers'
        tokens, not on the prompt's."""
        self.pairs, self.plan, self.pad_id, self.answers_only = pairs, plan, pad_id, answers_only

    def open(self, worker: Worker) -> None:
        self.worker = worker

    def batch(self, step: int) -> dict[str, np.ndarray]:
        assert self.plan is not None, "only a source of training has steps"
        rows = self.plan.share(step, self.worker.rank, self.worker.world_size)
        return self.arrays(rows) | _repeated(self.common(rows, self.plan.batch), len(rows))

    def arrays(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return pair_arrays(self.pairs, rows, self.pad_id, answers_only=self.answers_only)

    def common(self, rows: np.ndarray, total: int) -> dict[str, float]:
        """Values that the `total` pairs of all ranks share; `rows` are this rank's."""
        return {}

    def metrics(self) -> dict[str, float]:
        return {}

    def describe(self, step: int) -> list[str]:
        """One line per pair of a step's global batch: what it was made from."""
        assert self.plan is not None, "only a source of training has steps"
        return describe_examples(self.pairs, self.plan.indices(step))


def pair_arrays(
    pairs: EncodedExamples, rows: np.ndarray, pad_id: int, *, answers_only: bool = False
) -> dict[str, np.ndarray]:
    """`chosen`, `rejected` [B, L] and their masks [B, L], 1 on tokens (or on the answers' alone)."""
    prompts = pairs.gather("prompt", rows)
    ids, masks = [], []
    for side in SIDES:
        for prompt, answer in zip(prompts, pairs.gather(side, rows), strict=True):
            ids.append(np.concatenate([prompt, answer]))
            masks.append(np.concatenate([np.full_like(prompt, not answers_only), np.ones_like(answer)]))
    chosen, rejected = np.split(pad(ids, pad_id), 2)
    chosen_mask, rejected_mask = np.split(pad(masks, 0, np.uint8), 2)
    return {
        "chosen": chosen,
        "rejected": rejected,
        "chosen_mask": chosen_mask,
        "rejected_mask": rejected_mask,
    }


class HeldoutPairs:
    """Loss and accuracy on held-out pairs, an even share of each kind; equal on all ranks."""

    def __init__(
        self, batches: PairBatches, objective: Objective, micro_batch: int, limit: int = HELDOUT_PAIRS
    ) -> None:
        self.batches, self.objective, self.micro_batch = batches, objective, micro_batch
        self.rows = even_share([rows for _, rows in batches.pairs.files()], limit)

    def __call__(self, worker: Worker) -> dict[str, float]:
        import torch

        self.batches.open(worker)
        own, total, sums = self.rows[worker.rank :: worker.world_size], len(self.rows), [0.0, 0.0, 0.0]
        common = self.batches.common(own, total)
        for rows, counts in passes(own, total, worker, self.micro_batch):
            arrays = self.batches.arrays(rows) | _repeated(common, len(rows))
            batch = {key: torch.from_numpy(value).to(worker.device) for key, value in arrays.items()}
            with torch.no_grad():
                loss, more = self.objective.loss_sum(worker.engine, batch)
            if counts:
                sums = [sums[0] + float(loss), sums[1] + float(more["accuracy"]), sums[2] + len(rows)]
        loss_sum, right, count = worker.total(sums)
        return {"heldout_loss": loss_sum / count, "heldout_accuracy": right / count}


def _repeated(values: Mapping[str, float], count: int) -> dict[str, np.ndarray]:
    return {name: np.full(count, value, np.float32) for name, value in values.items()}


def passes(
    rows: np.ndarray, total: int, worker: Worker, micro_batch: int
) -> Iterator[tuple[np.ndarray, bool]]:
    """A rank's rows in micro-batches, and whether each counts.

    Every rank makes as many passes as the one with most of the `total` rows, because ZeRO-3 gathers
    parameters in a pass: a rank without rows left reads row 0.
    """
    most = -(-total // worker.world_size)
    for start in range(0, most, micro_batch):
        part = rows[start : start + micro_batch]
        yield (part, True) if part.size else (np.zeros(1, np.int64), False)


def even_share(kinds: Sequence[range], limit: int) -> np.ndarray:
    """At most `limit` indices, as equally many of each kind as there are, in ascending order.

    Which ones of a kind is decided by a fixed shuffle: neither by their order in the file nor by a seed.
    """
    chosen: list[np.ndarray] = []
    smallest_first = sorted((rows for rows in kinds if rows), key=len)
    for number, rows in enumerate(smallest_first):
        share = min(len(rows), limit // (len(smallest_first) - number))
        limit -= share
        chosen.append(rows.start + permutation(len(rows), 0, 0, np.arange(share)))
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
