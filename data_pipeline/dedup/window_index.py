"""On-disk index of the windows of a part's documents, sorted by hash, so that a hash range is contiguous.

Layout, little-endian: MAGIC; int64 number of documents D and of windows W; uint32 [CELLS + 1], number of
windows below each 1/CELLS of the hash range; uint32 [D + 1], number of windows before each document;
uint64 [W], sorted hashes; uint32 [W], position of each among the windows of all documents in order. 12
bytes per window, about twice the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

import numpy as np

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.filesystem import filesystem
from headwater.data_pipeline.dedup.substring import windows

MAGIC = b"HWWINDO1"
CELLS = 1024
"""Pieces of the hash range that can be read separately."""
LARGEST = (1 << 32) - 1
HEAD_BYTES = len(MAGIC) + 16


def write_windows(texts: Iterable[str], span_words: int, stream: IO[bytes]) -> int:
    """Write the index of one part and return its number of windows. The order of `texts` defines the document
    numbers of `find_repeats`."""
    hashes = [windows(text, span_words) for text in texts]
    starts = np.cumsum([0, *map(len, hashes)])
    together = np.concatenate([np.zeros(0, np.uint64), *hashes])
    if len(together) > LARGEST:
        raise HeadwaterError(
            f"a part has more than {LARGEST:,} windows", fix="split the input into smaller files"
        )
    order = np.argsort(together, kind="stable")
    together = together[order]
    borders = np.arange(1, CELLS, dtype=np.uint64) << np.uint64(64 - CELLS.bit_length() + 1)
    fences = [0, *np.searchsorted(together, borders).tolist(), len(together)]
    stream.write(MAGIC)
    for values, kind in (
        ([len(hashes), len(together)], "<i8"),
        (fences, "<u4"),
        (starts, "<u4"),
        (together, "<u8"),
        (order, "<u4"),
    ):
        stream.write(np.asarray(values).astype(kind).tobytes())
    return len(together)


class WindowFile:
    """Reads an index on a disk or S3: the header at once, cells on demand."""

    def __init__(self, location: str) -> None:
        self.location = location
        with self._open() as stream:
            size = stream.size()
            head = stream.read_at(HEAD_BYTES, 0)
            if not head.startswith(MAGIC) or len(head) < HEAD_BYTES:
                raise HeadwaterError("not a window index", where=location)
            documents, self.windows = np.frombuffer(head, "<i8", 2, len(MAGIC)).tolist()
            lengths = [4 * (CELLS + 1), 4 * (documents + 1), 8 * self.windows, 4 * self.windows]
            fences, starts, self._hashes, self._places, end = (
                HEAD_BYTES + sum(lengths[:count]) for count in range(5)
            )
            if size != end:
                raise HeadwaterError(f"{size:,} bytes instead of {end:,}", where=location)
            tables = stream.read_at(self._hashes - fences, fences)
        self.fences = np.frombuffer(tables, "<u4", CELLS + 1)
        """uint32 [CELLS + 1]"""
        self.starts = np.frombuffer(tables, "<u4", documents + 1, starts - fences)
        """uint32 [D + 1]"""

    def cells(self, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Hashes (uint64 [n], ascending) and places (uint32 [n]) of the cells first .. end - 1."""
        low, high = int(self.fences[first]), int(self.fences[end])
        with self._open() as stream:
            hashes = stream.read_at(8 * (high - low), self._hashes + 8 * low)
            places = stream.read_at(4 * (high - low), self._places + 4 * low)
        return np.frombuffer(hashes, "<u8"), np.frombuffer(places, "<u4")

    def _open(self):  # type: ignore[no-untyped-def]
        fs, path = filesystem(self.location)
        return fs.open_input_file(path)
