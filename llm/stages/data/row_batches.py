"""The batches of pretraining: packed rows, whole, cut into shorter ones, or a worker's stretch of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from headwater.data_pipeline.tokens.packing import document_positions
from headwater.data_pipeline.tokens.shards import TokenRows
from headwater.llm.rows.order import BatchOrder
from headwater.llm.rows.row_documents import row_documents
from headwater.llm.training.job import Worker
from headwater.llm.training.parallel import sequence


class RowBatches:
    """Batches of packed rows: `ids` [B, L+1] and `mask` [B, L+1], 0 on padding.

    With `separate_documents` also `positions` [B, L], which count within documents. With sequence parallelism
    `ids` and `mask` are this worker's stretch, `positions` its positions. In steps whose rows are cut (`cut`:
    their length by step) a row is several sequences, one after another.
    """

    def __init__(
        self,
        rows: TokenRows,
        plan: BatchOrder,
        *,
        separate_documents: bool = False,
        workers_per_row: int = 1,
        stretches: int = 1,
        cache_bytes: int = 0,
        cut: Callable[[int], int | None] | None = None,
    ) -> None:
        self.rows, self.plan, self.separate_documents = rows, plan, separate_documents
        self.workers_per_row, self.stretches = workers_per_row, stretches
        self.cache_bytes, self.cut = cache_bytes, cut

    def open(self, worker: Worker) -> None:
        self.rank, self.world_size = worker.rank, worker.world_size

    def batch(self, step: int) -> dict[str, np.ndarray]:
        if (expected := self.plan.shards(step)) is not None:
            self.rows.files.expect(*expected, self.cache_bytes)
        group, groups = self.rank // self.workers_per_row, self.world_size // self.workers_per_row
        ids = self.rows.gather(self.plan.share(step, group, groups))
        if self.stretches > 1:
            ids, positions = sequence.stretch(ids, self.rank, self.stretches)
            mask = (ids != self.rows.pad_id).astype(np.uint8)
            return {"ids": ids, "mask": mask, "positions": positions}
        if self.cut and (length := self.cut(step)):
            ids = cut_rows(ids, length)
        batch = {"ids": ids, "mask": (ids != self.rows.pad_id).astype(np.uint8)}
        if self.separate_documents:
            batch["positions"] = document_positions(ids[:, :-1], self.rows.end_id)
        return batch

    def metrics(self) -> dict[str, float]:
        return {}

    def describe(self, step: int) -> list[str]:
        """The documents in a step's global batch: id, shard, row, and token range."""
        return [str(document) for document in row_documents(self.rows, self.plan, step)]


def cut_rows(ids: np.ndarray, length: int) -> np.ndarray:
    """Rows [B, L+1] as sequences [B × L / length, length + 1]: each token is a target once, as before."""
    starts = range(0, ids.shape[1] - 1, length)
    parts = [ids[:, start : start + length + 1] for start in starts]
    return np.stack(parts, axis=1).reshape(-1, length + 1)
