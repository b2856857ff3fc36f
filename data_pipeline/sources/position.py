"""Where in an input file a reader is, so that a run which was cut off can go on there.

A reader that can start anywhere sets `mark` to where each item begins before it yields it, and starts at
`begin` when that is given. One that cannot leaves `mark` None: its file is read again from the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Mark(NamedTuple):
    offset: int
    """Of the next item: its byte in the unpacked stream, or its row."""
    number: int
    """Items before it."""
    packed: int = 0
    """In a compressed file: where the gzip member or zstd frame begins that is to be unpacked first …"""
    unpacked: int = 0
    """… and the offset of its content."""


@dataclass
class Position:
    begin: Mark | None = None
    mark: Mark | None = None
