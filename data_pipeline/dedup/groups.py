"""Groups documents that share a key. Keys are on disk; memory holds one number per document.

Pairs of key and row are partitioned by key into files, so that equal keys share a file, and each file is
sorted. Rows with equal keys are joined by union-find, so groups merge through shared members.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from headwater.data_pipeline.text.compiled import compiled

PART_BYTES = 64 << 20
"""Target size of one file, which is sorted in memory."""
HELD_BYTES = 64 << 20
"""Size of the write buffer for pairs."""
PAIR = np.dtype([("key", np.uint64), ("more", np.uint64), ("row", np.int64)])


class Spill:
    """Pairs of a 128-bit key and a row, on disk. `expected` is their approximate number."""

    def __init__(self, folder: Path, expected: int) -> None:
        self._folder, self._parts = folder, 1 + expected * PAIR.itemsize // PART_BYTES
        self._held: list[np.ndarray] = []
        self._held_bytes = 0
        folder.mkdir(parents=True)

    def add(self, keys: np.ndarray, rows: np.ndarray, more: np.ndarray | None = None) -> None:
        """Add pairs. `keys` and `more` (second half of the key, default 0): uint64 [n]; `rows`: int64 [n]."""
        pairs = np.zeros(len(keys), PAIR)
        pairs["key"], pairs["row"] = keys, rows
        if more is not None:
            pairs["more"] = more
        self._held.append(pairs)
        self._held_bytes += pairs.nbytes
        if self._held_bytes > HELD_BYTES:
            self._write()

    def sorted_parts(self) -> Iterator[np.ndarray]:
        """Yield PAIR arrays sorted by key and row; equal keys share an array. Consumes the files."""
        self._write()
        for path in sorted(self._folder.iterdir()):
            pairs = np.fromfile(path, PAIR)
            path.unlink()
            yield pairs[np.lexsort((pairs["row"], pairs["more"], pairs["key"]))]

    def _write(self) -> None:
        if not self._held:
            return
        pairs = np.concatenate(self._held)
        part = pairs["key"] % np.uint64(self._parts)
        for number in np.unique(part):
            with (self._folder / f"{number:06d}").open("ab") as file:
                pairs[part == number].tofile(file)
        self._held, self._held_bytes = [], 0


@compiled
def root_of(parent: np.ndarray, row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


@compiled
def connect_equal(parent: np.ndarray, keys: np.ndarray, more: np.ndarray, rows: np.ndarray) -> None:
    """Join adjacent rows with equal keys. The root of a group is its smallest row."""
    for place in range(1, len(rows)):
        if keys[place] == keys[place - 1] and more[place] == more[place - 1]:
            left, right = root_of(parent, rows[place - 1]), root_of(parent, rows[place])
            if left < right:
                parent[right] = left
            else:
                parent[left] = right


@compiled
def flatten(parent: np.ndarray) -> None:
    for row in range(len(parent)):
        parent[row] = root_of(parent, row)


class Groups:
    """Union-find over rows 0 … n - 1."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count, dtype=np.int64)

    def connect(self, spill: Spill, wanted: np.ndarray) -> None:
        """Join all rows with equal keys among the `wanted` ones, bool [n]."""
        for pairs in spill.sorted_parts():
            pairs = pairs[wanted[pairs["row"]]]
            columns = (np.ascontiguousarray(pairs[name]) for name in ("key", "more", "row"))
            connect_equal(self._parent, *columns)

    def numbers(self) -> np.ndarray:
        """int64 [n]: the group of each row, named by its smallest row."""
        flatten(self._parent)
        return self._parent
