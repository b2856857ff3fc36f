"""Finds the windows that occur twice in a corpus, and the spans to cut so that one occurrence remains.

An external sort over ranges of hashes: memory holds one range of all parts at a time, and matches go to the
scratch folder. Memory is bounded by `memory_bytes` (unless a single window has more occurrences), plus 12
bytes per document and 4 KB per part. The result depends on the documents and their ranks, not on the
assignment to parts or the order or number of parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from headwater.data_pipeline.dedup.window_index import CELLS, WindowFile

MEMORY_BYTES = 1 << 30
BYTES_PER_WINDOW = 100
"""Peak size per window of all arrays in memory while a range is compared."""
SPAN_SCHEMA = pa.schema([("document", pa.int64()), ("first", pa.int64()), ("end", pa.int64())])
"""Row of the document in its part; first word to cut, and one past the last."""


def ranks(ids: np.ndarray, places: np.ndarray) -> np.ndarray:
    """int64 [N]: position of each document in the order of (id, place)."""
    order = np.lexsort((places, ids))
    result = np.empty(len(order), np.int64)
    result[order] = np.arange(len(order))
    return result


def find_repeats(
    files: Sequence[WindowFile],
    ranks: Sequence[np.ndarray],
    span_words: int,
    scratch: Path,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[pa.Table]:
    """Yield for each part the spans (SPAN_SCHEMA) to cut from its documents: all occurrences of a repeated
    window except the first one in the document with the smallest rank. `ranks[p]` has a number for each
    document of part p, all different. `scratch` is an empty folder, used until the last part is yielded.
    """
    found: list[np.ndarray] = []
    for number, (first, end) in enumerate(ranges(files, memory_bytes // BYTES_PER_WINDOW)):
        repeated = _others(*_gather(files, first, end), files, ranks)
        if len(repeated):
            np.save(scratch / f"{number}.npy", repeated)
            found.append(np.load(scratch / f"{number}.npy", mmap_mode="r"))
    for part, file in enumerate(files):
        yield _spans(_of_part(found, part), file.starts, span_words)


def ranges(files: Sequence[WindowFile], windows: int) -> list[tuple[int, int]]:
    """Ranges [first, end) of cells that hold at most `windows` windows or consist of one cell."""
    sizes = np.zeros(CELLS, np.int64)
    for file in files:
        fences = file.fences.astype(np.int64)
        sizes += fences[1:] - fences[:-1]
    result, first, held = [], 0, 0
    for cell, size in enumerate(sizes.tolist()):
        if held and held + size > windows:
            result.append((first, cell))
            first, held = cell, 0
        held += size
    return [*result, (first, CELLS)]


def _gather(files: Sequence[WindowFile], first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (uint64 [n]) and keys (uint64 [n]: part · 2^32 + place) of a range."""
    sizes = [int(file.fences[end]) - int(file.fences[first]) for file in files]
    hashes, keys = np.empty(sum(sizes), np.uint64), np.empty(sum(sizes), np.uint64)
    count = 0
    for part, (file, size) in enumerate(zip(files, sizes, strict=True)):
        here = slice(count, count + size)
        hashes[here], keys[here] = file.cells(first, end)
        keys[here] |= np.uint64(part << 32)
        count += size
    return hashes, keys


def _others(
    hashes: np.ndarray, keys: np.ndarray, files: Sequence[WindowFile], ranks: Sequence[np.ndarray]
) -> np.ndarray:
    """Sorted keys of all occurrences of repeated windows, except the one of each that is kept."""
    order = np.argsort(hashes, kind="stable")
    hashes, keys = hashes[order], keys[order]
    del order
    same = hashes[1:] == hashes[:-1]
    repeated = np.zeros(len(hashes), bool)
    repeated[1:] |= same
    repeated[:-1] |= same
    order = np.argsort(keys[repeated])
    hashes, keys = hashes[repeated][order], keys[repeated][order]
    rank, position = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    borders = np.searchsorted(keys, np.arange(len(files) + 1, dtype=np.uint64) << np.uint64(32)).tolist()
    for part, (low, high) in enumerate(itertools.pairwise(borders)):
        if high > low:
            places = (keys[low:high] & np.uint64(0xFFFFFFFF)).astype(np.int64)
            documents = _documents(files[part], places)
            rank[low:high] = ranks[part][documents]
            position[low:high] = places - files[part].starts[documents]
    order = np.lexsort((position, rank, hashes))
    first = np.ones(len(order), bool)
    first[1:] = hashes[order[1:]] != hashes[order[:-1]]
    return np.sort(keys[order[~first]])


def _documents(file: WindowFile, places: np.ndarray) -> np.ndarray:
    """Row in its part of the document that contains each window."""
    return np.searchsorted(file.starts, places, side="right") - 1


def _of_part(found: Sequence[np.ndarray], part: int) -> np.ndarray:
    """Sorted int64 places in this part from the matches of all ranges."""
    low, high = np.uint64(part << 32), np.uint64((part + 1) << 32)
    pieces = [keys[slice(*np.searchsorted(keys, [low, high]).tolist())] for keys in found]
    return np.sort(np.concatenate([np.zeros(0, np.uint64), *pieces]) - low).astype(np.int64)


def _spans(places: np.ndarray, starts: np.ndarray, span_words: int) -> pa.Table:
    """Merge overlapping or adjacent windows of one document into spans."""
    documents = np.searchsorted(starts, places, side="right") - 1
    positions = places - starts[documents]
    begins = np.ones(len(places), bool)
    begins[1:] = (np.diff(documents) > 0) | (np.diff(positions) > span_words)
    ends = np.roll(begins, -1)
    columns = [documents[begins], positions[begins], positions[ends] + span_words]
    return pa.Table.from_arrays([pa.array(column) for column in columns], schema=SPAN_SCHEMA)


def spans_of(table: pa.Table, document: int) -> np.ndarray:
    """int64 [S, 2]: spans of one document of the part, as `substring.cut` expects them."""
    rows = slice(*np.searchsorted(table["document"].to_numpy(), [document, document + 1]).tolist())
    return np.column_stack([table[name].to_numpy()[rows] for name in ("first", "end")])
