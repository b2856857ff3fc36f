"""A text with the properties that several filters use (words, lines), computed once."""

from __future__ import annotations

import functools

from headwater.data_pipeline.text.words import Vocabulary, WordIds

CHUNKS_KEPT, BYTES_KEPT = 1_000_000, 100_000_000
"""Chunks, and bytes of distinct words, at which the vocabulary is reset (about 500 MB of memory)."""
_current: list[Vocabulary] = []


def vocabulary() -> Vocabulary:
    """Vocabulary of this process. It grows with the texts read, up to a limit."""
    full = _current and (len(_current[0]) > CHUNKS_KEPT or len(_current[0].bytes()[1]) > BYTES_KEPT)
    if not _current or full:
        _current[:] = [Vocabulary()]
    return _current[0]


class Text:
    """A string whose words and lines are computed on first use."""

    def __init__(self, text: str) -> None:
        self.text = text

    @functools.cached_property
    def words(self) -> WordIds:
        return vocabulary().words(self.text)

    @functools.cached_property
    def lines(self) -> list[str]:
        """Non-blank lines."""
        return [line for line in self.text.split("\n") if line.strip()]
