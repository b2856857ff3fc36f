"""A text with what several filters ask of it (words, lines), computed once."""

from __future__ import annotations

import functools

from headwater.data_pipeline.text.words import Vocabulary, WordIds

CHUNKS_KEPT, BYTES_KEPT = 1_000_000, 100_000_000
"""Chunks, and bytes of distinct words, in memory before a vocabulary is begun anew (about 500 MB)."""
_current: list[Vocabulary] = []


def vocabulary() -> Vocabulary:
    """This process's words: they grow with the texts that it reads, up to a limit."""
    full = _current and (len(_current[0]) > CHUNKS_KEPT or len(_current[0].bytes()[1]) > BYTES_KEPT)
    if not _current or full:
        _current[:] = [Vocabulary()]
    return _current[0]


class Text:
    """Wraps a string; words and lines are split when first asked for."""

    def __init__(self, text: str) -> None:
        self.text = text

    @functools.cached_property
    def words(self) -> WordIds:
        return vocabulary().words(self.text)

    @functools.cached_property
    def lines(self) -> list[str]:
        """Lines that are not blank."""
        return [line for line in self.text.split("\n") if line.strip()]
