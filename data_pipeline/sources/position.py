"""Position of a reader in an input file, from which an interrupted run resumes.

A seekable reader sets `mark` to the start of each item before yielding it, and starts at `begin` if given.
Other readers leave `mark` None, and their file is read again from the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Mark(NamedTuple):
    """Start of an item in an input file."""

    offset: int
    """Byte in the uncompressed stream, or row, of the next item."""
    number: int
    """Number of items before it."""
    packed: int = 0
    """Offset in a compressed file of the gzip member or zstd frame that contains the item."""
    unpacked: int = 0
    """Uncompressed offset of that member's content."""


@dataclass
class Position:
    """`begin`: where to start reading. `mark`: start of the item just yielded, None if not resumable."""

    begin: Mark | None = None
    mark: Mark | None = None
