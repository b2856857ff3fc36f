"""Cut a file of lines into units of work, and find duplicate ids, in one pass.

Memory: one line (at most LONGEST_LINE bytes), plus 24 bytes per line with an id.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from headwater.data_pipeline.sources.lines import split_lines

LONGEST_LINE = 4 << 20
"""Bytes. Fits a prompt of a million tokens, but not a file without line breaks."""
CHUNK = 4 << 20
MOST_UNITS = 10_000
"""Approximate maximum number of units. Each takes a work file, and memory in the driver."""
MOST_BYTES = 64 << 20
"""Maximum bytes per unit, raised for files so large that they would exceed MOST_UNITS."""


@dataclass(frozen=True)
class BatchUnits:
    """A file cut into units: byte ranges of whole lines, in file order."""

    requests: int
    """Number of non-blank lines. Each becomes one record in the output or the error file."""
    units: list[dict[str, Any]]
    """`unit` (name), `start` and `end` (bytes), `line` (number of the first line), `duplicates` (numbers of
    lines with the id of an earlier line), `too_long` (the unit is one line longer than LONGEST_LINE)."""


def plan(
    stream: BinaryIO,
    size: int,
    lines_per_unit: int,
    line_id: Callable[[bytes], str | None],
    advance: Callable[[int], None] = lambda read: None,
) -> BatchUnits:
    """Cut a stream of `size` bytes into units. `line_id` returns the id of a line, or None.

    A unit has at most `lines_per_unit` lines, apart from empty lines at its end: successive empty lines
    stay together, so a file of empty lines alone is one unit.
    `advance` is called with the number of bytes of each line read.
    """
    least_bytes = size // MOST_UNITS
    most_bytes = max(MOST_BYTES, least_bytes)
    cut, ids = _Cutter(), _Ids()
    requests = end = number = 0
    for number, start, end, content in split_lines(stream, LONGEST_LINE, chunk_bytes=CHUNK):
        if content is None:
            cut.close(start, number)
        elif content.strip() and (found := line_id(content)) is not None:
            ids.add(number, found)
        requests += content is None or bool(content.strip())
        wide = cut.lines(number) >= lines_per_unit and cut.bytes(end) >= least_bytes
        if content is None or wide or cut.bytes(end) >= most_bytes:
            cut.close(end, number + 1, too_long=content is None)
        advance(end - start)
    cut.close(end, number + 1)
    _place(ids.repeated(), cut.units)
    return BatchUnits(requests, cut.units)


class _Cutter:
    """The open unit and the closed ones."""

    def __init__(self) -> None:
        self.units: list[dict[str, Any]] = []
        self._start, self._line = 0, 1

    def lines(self, number: int) -> int:
        return number + 1 - self._line

    def bytes(self, offset: int) -> int:
        return offset - self._start

    def close(self, end: int, next_line: int, *, too_long: bool = False) -> None:
        if end > self._start:
            self.units.append(
                {
                    "unit": f"{len(self.units):06d}",
                    "start": self._start,
                    "end": end,
                    "line": self._line,
                    "duplicates": [],
                    "too_long": too_long,
                }
            )
        self._start, self._line = end, next_line


class _Ids:
    """Ids as 128-bit digests. Among 10^9 ids, a collision has probability 10^-21."""

    def __init__(self) -> None:
        self._digests, self._lines = bytearray(), array("q")

    def add(self, line: int, identifier: str) -> None:
        self._digests += hashlib.blake2b(identifier.encode(), digest_size=16).digest()
        self._lines.append(line)

    def repeated(self) -> list[int]:
        """Sorted numbers of the lines with the id of an earlier line."""
        halves = np.frombuffer(bytes(self._digests), np.uint64).reshape(-1, 2)
        lines = np.frombuffer(self._lines, np.int64)
        order = np.lexsort((lines, halves[:, 1], halves[:, 0]))
        same = (halves[order[1:]] == halves[order[:-1]]).all(axis=1)
        return sorted(lines[order[1:][same]].tolist())


def _place(lines: list[int], units: list[dict[str, Any]]) -> None:
    """Add each line number to `duplicates` of the unit that contains the line."""
    firsts = [unit["line"] for unit in units]
    for line, position in zip(lines, np.searchsorted(firsts, lines, side="right") - 1, strict=True):
        units[position]["duplicates"].append(line)
