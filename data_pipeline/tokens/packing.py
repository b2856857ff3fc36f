"""Packing: documents of any length → overlapping rows of `row_length + 1` token ids.

With inputs `row[:-1]` and targets `row[1:]`, every token of every document and its end token are a target
exactly once. Rows are filled up with `<|pad|>`, which is not scored. No token is dropped. Two methods:

`concatenate`: documents are concatenated and cut where a row is full. Only the last row is padded, but a
document that continues in the next row loses its earlier context.

`best_fit` (Ding et al. 2024, "Fewer Truncations Improve Language Modeling"): only documents longer than a row
are cut. Their full rows stand alone; the remainders and the other documents share rows by best-fit-decreasing
bin packing. A row that continues a document starts with the preceding id. If a row holds several remainders,
the second and later ones start after an end token, as new documents do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Packing = Literal["concatenate", "best_fit"]


@dataclass
class PackedRows:
    """Rows of one part, and the documents in them.

    A row's documents are those with a token in it, in order. They are stored as a flat list with one entry
    per row and document.
    """

    ids: np.ndarray
    """[rows, row_length + 1], uint16 or uint32."""
    offsets: np.ndarray
    """int32 [rows + 1]: row r has the entries `offsets[r]` to `offsets[r + 1]`."""
    starts: np.ndarray
    """int32 [entries]: index of the document's first token in the row; 0 if the row continues it."""
    owners: np.ndarray
    """int64 [entries]: index of the document, in input order."""
    names: Sequence[str]
    """Document ids, in input order."""
    padding: int
    """Number of padding ids in all rows."""

    @property
    def documents(self) -> list[list[tuple[int, str]]]:
        """Per row: (start, document id)."""
        entries = [(int(s), self.names[owner]) for s, owner in zip(self.starts, self.owners, strict=True)]
        return [entries[a:b] for a, b in zip(self.offsets[:-1], self.offsets[1:], strict=True)]


def id_type(vocab_size: int) -> type[np.unsignedinteger[Any]]:
    """Smallest type for token ids: uint16 up to 65,536 ids, else uint32."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def pack(
    documents: Sequence[tuple[str, Sequence[int] | np.ndarray]],
    row_length: int,
    *,
    end_id: int,
    pad_id: int,
    vocab_size: int,
    packing: Packing = "concatenate",
) -> PackedRows:
    """Pack documents (id, token ids) into rows. The result depends only on the documents and their order."""
    lengths = np.array([len(ids) + 1 for _, ids in documents], np.int64)  # each with its end token
    stream = np.full(int(lengths.sum()) + 1, end_id, id_type(vocab_size))
    starts = 1 + np.cumsum(lengths) - lengths
    for start, (_, tokens) in zip(starts, documents, strict=True):
        stream[start : start + len(tokens)] = tokens
    names = [name for name, _ in documents]
    lay = _best_fit_rows if packing == "best_fit" else _concatenated_rows
    return lay(stream, starts, lengths, names, row_length, pad_id)


def document_positions(inputs: np.ndarray, end_id: int) -> np.ndarray:
    """Positions within the document, int64 [n, row_length]. An end token is position 0 of what follows it.

    Where the position does not increase by one, another document (or remainder) starts.
    """
    at = np.arange(inputs.shape[1])
    return at - np.maximum.accumulate(np.where(inputs == end_id, at, 0), axis=1)


def _concatenated_rows(
    stream: np.ndarray, starts: np.ndarray, lengths: np.ndarray, names: list[str], length: int, pad_id: int
) -> PackedRows:
    targets = len(stream) - 1
    rows = math.ceil(targets / length)
    padding = rows * length - targets
    padded = np.concatenate([stream, np.full(padding, pad_id, stream.dtype)])
    windows = sliding_window_view(padded, length + 1) if rows else np.empty((0, length + 1), stream.dtype)
    begins = np.arange(rows) * length
    first = np.searchsorted(starts + lengths, begins, side="right")
    offsets = _offsets(np.searchsorted(starts, begins + length, side="right") - first)
    row = np.repeat(np.arange(rows), np.diff(offsets))
    owners = first[row] + np.arange(len(row)) - offsets[row]
    inside = np.maximum(0, starts[owners] - begins[row]).astype(np.int32)
    return PackedRows(windows[::length], offsets, inside, owners, names, padding)


def _best_fit_rows(
    stream: np.ndarray, starts: np.ndarray, lengths: np.ndarray, names: list[str], length: int, pad_id: int
) -> PackedRows:
    """Full rows come first, so that the first piece of a document precedes its others."""
    full, rest = np.divmod(lengths, length)
    alone = np.repeat(np.arange(len(lengths)), full)
    piece = np.arange(len(alone)) - np.repeat(np.cumsum(full) - full, full)
    partial = np.flatnonzero(rest)
    bins = best_fit(rest[partial], length)
    order = np.lexsort((partial, full[partial] == 0, bins))  # by row; continued document first, input order
    partial, bins = partial[order], bins[order]

    owners = np.concatenate([alone, partial])
    source = np.concatenate([starts[alone] + piece * length, starts[partial] + full[partial] * length])
    size = np.concatenate([np.full(len(alone), length), rest[partial]])
    row = np.concatenate([np.arange(len(alone)), len(alone) + bins])
    rows = int(row[-1]) + 1 if len(row) else 0
    offsets = _offsets(np.bincount(row, minlength=rows))
    before = np.cumsum(size) - size
    column = 1 + before - before[offsets[row]]

    ids = np.full((rows, length + 1), pad_id, stream.dtype)
    within = np.arange(int(size.sum())) - np.repeat(before, size)
    ids.reshape(-1)[np.repeat(row * (length + 1) + column, size) + within] = stream[
        np.repeat(source, size) + within
    ]
    heads = offsets[:-1]
    goes_on = source[heads] > starts[owners[heads]]
    ids[:, 0] = stream[np.where(goes_on, source[heads] - 1, 0)]
    column[heads[goes_on]] = 0
    padding = rows * length - int(size.sum())
    return PackedRows(ids, offsets, column.astype(np.int32), owners, names, padding)


def best_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Best-fit decreasing: bin of each item, int64. Uses at most 11/9 · optimum + 1 bins.

    Items are placed in decreasing size, each in the fullest bin with room for it, or in a new bin. (Equal
    items are placed together: a bin that took one and has room for another is the fullest with room.)
    """
    order = np.argsort(-sizes, kind="stable")
    distinct, counts = np.unique(sizes, return_counts=True)
    bins = np.empty(len(sizes), np.int64)
    room: dict[int, list[int]] = {}  # room left → bins
    made = placed = 0
    for size, count in zip(distinct[::-1].tolist(), counts[::-1].tolist(), strict=True):
        for left in [*sorted(left for left in room if left >= size), capacity]:
            each = left // size
            wanted = -(-count // each)
            if left == capacity:
                chosen = list(range(made, made + wanted))
                made += wanted
            else:
                chosen, more = room[left][:wanted], room.pop(left)[wanted:]
                if more:
                    room[left] = more
            taken = min(count, each * len(chosen))
            bins[order[placed : placed + taken]] = np.repeat(chosen, each)[:taken]
            last = taken - each * (len(chosen) - 1)  # the last bin may get fewer
            if len(chosen) > 1:
                room.setdefault(left - each * size, []).extend(chosen[:-1])
            room.setdefault(left - last * size, []).append(chosen[-1])
            placed, count = placed + taken, count - taken
            if not count:
                break
    return bins


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
