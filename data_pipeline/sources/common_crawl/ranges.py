"""Byte ranges: pages of a file that lie close together are fetched in one request."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

REQUEST_BYTES = 8 << 20
"""Bytes of a request after which no further page is added to it. Bounds memory."""


@dataclass(frozen=True)
class Range:
    """One request: the pages `first` to `last` - 1 of the list, which lie in these bytes of a file."""

    file: str
    offset: int
    length: int
    first: int
    last: int


def merged(
    files: Sequence[str], offsets: Sequence[int], lengths: Sequence[int], gap: int, first: int = 0
) -> Iterator[Range]:
    """Requests for pages that are ordered by file and offset, from the page `first` on. At most `gap` bytes
    between two pages are fetched with them."""
    while first < len(files):
        start, end, last = offsets[first], offsets[first] + lengths[first], first + 1
        while (
            last < len(files)
            and files[last] == files[first]
            and offsets[last] - end <= gap
            and offsets[last] + lengths[last] - start <= REQUEST_BYTES
        ):
            end = max(end, offsets[last] + lengths[last])
            last += 1
        yield Range(files[first], start, end - start, first, last)
        first = last


def cost(files: np.ndarray, offsets: np.ndarray, lengths: np.ndarray, gap: int) -> tuple[int, int]:
    """Number of requests, and bytes that they fetch, gaps included, for ordered pages; `files` are numbers.

    Requests are split at REQUEST_BYTES too, which is only estimated here.
    """
    if not len(files):
        return 0, 0
    ends = offsets + lengths
    between = offsets[1:] - ends[:-1]
    joined = (files[1:] == files[:-1]) & (between <= gap)
    fetched = int(lengths.sum()) + int(between[joined & (between > 0)].sum())
    return max(len(files) - int(joined.sum()), -(-fetched // REQUEST_BYTES)), fetched


def bounds(lengths: np.ndarray, unit_bytes: int) -> list[tuple[int, int]]:
    """First and last + 1 page of each unit of work: consecutive pages of about `unit_bytes` together."""
    if not len(lengths):
        return []
    number = (np.cumsum(lengths) - lengths) // unit_bytes
    starts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(lengths)]
    return list(itertools.pairwise(starts))
