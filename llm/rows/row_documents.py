"""Which documents the batch of a step holds, and which steps hold a document, without scanning steps.

A step's rows come from its batch order, a row's documents from its shard. The inverse needs the rows of the
document (`data_pipeline.explain.token_places`) and the inverse of the order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headwater.data_pipeline.tokens.shards import TokenRows
from headwater.llm.rows.order import BatchOrder, Visit

if TYPE_CHECKING:  # imports all of cleaning, which training workers do not need
    from headwater.data_pipeline.explain import TokenPlace


@dataclass(frozen=True)
class RowDocument:
    """The part of a document in one row of a batch."""

    place: int
    """Index of the row in the batch, from 0."""
    document_id: str
    shard: str
    """File below the `tokenize` artifact."""
    row: int
    """Row number in the shard."""
    start: int
    end: int
    """Its ids are `row[start:end]`, including the end-of-document id."""

    def __str__(self) -> str:
        return f"{self.document_id} ({self.shard} row {self.row}, ids {self.start} to {self.end - 1})"


def row_documents(rows: TokenRows, plan: BatchOrder, step: int) -> list[RowDocument]:
    """The documents of a step's global batch, in batch order."""
    found = []
    for place, index in enumerate(plan.indices(step).tolist()):
        shard, row = rows.place(index)
        documents = rows.documents(index)
        filled = int(np.flatnonzero(rows[index] != rows.pad_id)[-1]) + 1  # ids before the padding
        ends = [*(start for start, _ in documents[1:]), filled]
        for (start, name), end in zip(documents, ends, strict=True):
            found.append(RowDocument(place, name, shard, row, start, end))
    return found


def visits(rows: TokenRows, plan: BatchOrder, places: Iterable[TokenPlace], steps: int) -> list[Visit]:
    """The first `steps` steps' visits to rows with tokens of a document, in order."""
    mine = [place for place in places if place.split == rows.split]
    indices = [rows.index(place.shard, row) for place in mine for row in place.rows]
    return sorted(visit for index in indices for visit in plan.visits(index, steps))
