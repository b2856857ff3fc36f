"""Bits per byte: cross-entropy on held-out text in a unit that does not depend on the tokenizer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.packing import document_positions
from data_pipeline.shards import TokenRows

if TYPE_CHECKING:
    import torch

    from llm.trainer import Worker


class BitsPerByte:
    """Evaluation of a training job: the cost of the validation rows, shared out over the ranks.

    All scored targets (ends of documents included) in bits, over the UTF-8 bytes of the documents.
    `separate_documents` as in pretraining: nothing of a row's other documents is seen.
    """

    def __init__(self, rows: TokenRows, micro_batch: int, *, separate_documents: bool = False) -> None:
        self.rows, self.micro_batch, self.separate_documents = rows, micro_batch, separate_documents

    def __call__(self, worker: Worker) -> dict[str, float]:
        nats = 0.0
        stride = worker.world_size * self.micro_batch
        # Every rank makes the same number of passes: ZeRO-3 gathers parameters in each of them.
        for start in range(0, len(self.rows), stride):
            first = start + worker.rank * self.micro_batch
            wanted = np.arange(first, first + self.micro_batch)
            nats += self.cost(worker.engine, wanted, worker.device)
        (total,) = worker.total([nats])
        return {"bits_per_byte": total / math.log(2) / max(1, self.rows.bytes)}

    def cost(self, model: object, wanted: np.ndarray, device: torch.device) -> float:
        """Nats of the scored targets of the wanted rows; numbers past the last row count nothing."""
        import torch

        from llm.objectives import token_losses

        rows = self.rows.gather(np.minimum(wanted, len(self.rows) - 1))
        positions = None
        if self.separate_documents:
            positions = torch.from_numpy(document_positions(rows[:, :-1], self.rows.end_id)).to(device)
        ids = torch.from_numpy(rows).to(device)
        inside = torch.from_numpy(wanted < len(self.rows)).to(device)
        scored = (ids[:, 1:] != self.rows.pad_id) & inside[:, None]
        with torch.no_grad():
            return float((token_losses(model, ids, positions=positions) * scored).sum())

    def of_model(self, model: object, device: torch.device) -> float:
        """The same for one whole model in this process."""
        steps = range(0, len(self.rows), self.micro_batch)
        nats = sum(self.cost(model, np.arange(i, i + self.micro_batch), device) for i in steps)
        return nats / math.log(2) / max(1, self.rows.bytes)
