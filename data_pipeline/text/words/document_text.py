"""A text with the properties that several filters use (words, lines), computed once."""

from __future__ import annotations

import functools

from headwater.data_pipeline.text.words.languages import ENGLISH
from headwater.data_pipeline.text.words.segmented import SPLITTERS, Segmented
from headwater.data_pipeline.text.words.spacy_words import Vocabulary
from headwater.data_pipeline.text.words.word_table import WordIds, WordTable

CHUNKS_KEPT, BYTES_KEPT = 1_000_000, 100_000_000
"""Chunks, and bytes of distinct words, at which the vocabularies are reset (about 500 MB of memory)."""
_current: dict[str, WordTable] = {}


def vocabulary(splitter: str = ENGLISH) -> WordTable:
    """This process's vocabulary of a splitter: `spacy de`, or one of `segmented.SPLITTERS`. It grows with the
    texts read, up to a limit on all of them together."""
    if _full():
        _current.clear()
    if splitter not in _current:
        kind, _, language = splitter.partition(" ")
        made = Vocabulary(language) if kind == "spacy" else Segmented(SPLITTERS[splitter]())
        _current[splitter] = made
    return _current[splitter]


def _full() -> bool:
    tables = _current.values()
    return sum(map(len, tables)) > CHUNKS_KEPT or sum(len(table.bytes()[1]) for table in tables) > BYTES_KEPT


class Text:
    """A string whose words and lines are computed on first use."""

    def __init__(self, text: str, splitter: str = ENGLISH) -> None:
        self.text = text
        self.splitter = splitter

    @functools.cached_property
    def words(self) -> WordIds:
        return vocabulary(self.splitter).words(self.text)

    @functools.cached_property
    def lines(self) -> list[str]:
        """Non-blank lines."""
        return [line for line in self.text.split("\n") if line.strip()]
