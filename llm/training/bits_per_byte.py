"""Bits per byte: cross-entropy on held-out text in a unit that does not depend on the tokenizer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from headwater.data_pipeline.tokens.packing import document_positions
from headwater.data_pipeline.tokens.shards import TokenRows

if TYPE_CHECKING:
    import torch

    from headwater.llm.training.loop import Worker


class BitsPerByte:
    """Evaluation of a training job: bits per byte of the validation rows, sharded over the ranks.

    The cross-entropy of all scored targets (ends of documents included) in bits, over the UTF-8 bytes of the
    documents; per corpus as well if the recipe names corpora. With `separate_documents` attention does not
    cross documents, as in pretraining.
    """

    def __init__(self, rows: TokenRows, micro_batch: int, *, separate_documents: bool = False) -> None:
        self.rows, self.micro_batch, self.separate_documents = rows, micro_batch, separate_documents

    def __call__(self, worker: Worker) -> dict[str, float]:
        nats = np.zeros(len(self.rows))
        stride = worker.world_size // worker.copies * self.micro_batch
        # Every rank makes the same number of passes: ZeRO-3 gathers parameters in each of them.
        for start in range(0, len(self.rows), stride):
            first = start + worker.rank // worker.copies * self.micro_batch
            wanted = np.arange(first, first + self.micro_batch)
            costs = self.costs(worker.engine, wanted, worker.device)
            nats[wanted[wanted < len(self.rows)]] = costs[wanted < len(self.rows)]
        corpora = {name: rows for name, rows in self.rows.corpora.items() if self.rows.corpus_bytes.get(name)}
        own = [float(nats.sum()), *(float(nats[rows.start : rows.stop].sum()) for rows in corpora.values())]
        total, *parts = (counted / worker.copies for counted in worker.total(own))
        measured = {"bits_per_byte": total / math.log(2) / max(1, self.rows.bytes)}
        for name, part in zip(corpora, parts, strict=True):
            measured[f"bits_per_byte_{name}"] = part / math.log(2) / self.rows.corpus_bytes[name]
        return measured

    def costs(self, model: object, wanted: np.ndarray, device: torch.device) -> np.ndarray:
        """Summed cross-entropy (nats) of each wanted row, [n]; indices past the last row cost 0."""
        import torch

        from headwater.llm.training.losses.token_losses import token_losses

        rows = self.rows.gather(np.minimum(wanted, len(self.rows) - 1))
        positions = None
        if self.separate_documents:
            positions = torch.from_numpy(document_positions(rows[:, :-1], self.rows.end_id)).to(device)
        ids = torch.from_numpy(rows).to(device)
        inside = torch.from_numpy(wanted < len(self.rows)).to(device)
        scored = (ids[:, 1:] != self.rows.pad_id) & inside[:, None]
        with torch.no_grad():
            nats = (token_losses(model, ids, positions=positions) * scored).double().sum(1)
        return nats.cpu().numpy()

    def of_model(self, model: object, device: torch.device) -> float:
        """Bits per byte of one whole model in this process."""
        steps = range(0, len(self.rows), self.micro_batch)
        nats = sum(self.costs(model, np.arange(i, i + self.micro_batch), device).sum() for i in steps)
        return float(nats) / math.log(2) / max(1, self.rows.bytes)
