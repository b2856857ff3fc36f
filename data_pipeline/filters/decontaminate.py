"""Drops documents that contain text of evaluation sets, so that evaluation results stay valid.

Compares word 13-grams of the simplified text, as GPT-3 did (Brown et al. 2020, appendix C).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.stage import NonEmpty
from headwater.data_pipeline.dedup.minhash import simplified_words
from headwater.data_pipeline.dedup.shingles import xxh64_of_ngrams
from headwater.data_pipeline.filters.filter import FilterConfig, Measure
from headwater.data_pipeline.filters.lists import read_text
from headwater.data_pipeline.text.words.languages import ENGLISH
from headwater.data_pipeline.verdict import Rule, Scores


class DecontaminateConfig(FilterConfig):
    """Evaluation sets to remove from the corpus. Without sets the step is skipped."""

    measured_with: ClassVar[frozenset[str] | None] = frozenset({"sets", "ngram", "min_words"})

    sets: tuple[NonEmpty, ...] = ()
    """Files of evaluation text (paths, `s3://`). Every string in the objects of a `.jsonl` file and every
    line of other files is compared."""
    ngram: int = Field(default=13, ge=1)
    """Consecutive words that form a match. Shorter strings of at least `min_words` words match as a whole."""
    min_words: int = Field(default=8, ge=1)
    """Strings with fewer words are ignored, because they occur by chance."""
    max_matches: int = Field(default=0, ge=0)
    """Maximum number of matching n-grams in a kept document."""

    @property
    def files(self) -> tuple[str, ...]:
        return self.sets

    @property
    def wanted(self) -> bool:
        return bool(self.sets)

    def measurer(self) -> Measure:
        decontaminator = Decontaminator(self)
        return lambda found: decontaminator.measure(found.document.text, found.splitter)

    def rules(self) -> list[Rule]:
        return [Rule("matches", "evaluation_text", most=self.max_matches)]


def ngrams(text: str, ngram: int, min_words: int, splitter: str = ENGLISH) -> tuple[int, np.ndarray] | None:
    """Length in words of the n-grams that identify a text, `ngram` at most, and their hashes.

    None for a text with fewer than `min_words` words.
    """
    words, starts = simplified_words(text, splitter)
    n = min(ngram, len(starts) - 1)
    return (n, xxh64_of_ngrams(words, starts, n)) if n >= min_words else None


class Decontaminator:
    """Holds the hashes of all n-grams of the sets, by splitter and length."""

    def __init__(self, config: DecontaminateConfig) -> None:
        self._config = config
        self._texts = [text for location in config.sets for text in _strings(location)]
        self._hashes: dict[str, dict[int, np.ndarray]] = {}

    def measure(self, text: str, splitter: str = ENGLISH) -> Scores:
        """`matches`: number of n-grams of the text that occur in a set. Both are split into words as the
        text's language is."""
        if splitter not in self._hashes:
            self._hashes[splitter] = self._hashed(splitter)
        words, starts = simplified_words(text, splitter)
        matches = sum(
            int(np.isin(xxh64_of_ngrams(words, starts, n), known).sum())
            for n, known in self._hashes[splitter].items()
        )
        return {"matches": matches}

    def _hashed(self, splitter: str) -> dict[int, np.ndarray]:
        hashes: dict[int, set[int]] = {}
        for text in self._texts:
            if found := ngrams(text, self._config.ngram, self._config.min_words, splitter):
                hashes.setdefault(found[0], set()).update(found[1].tolist())
        return {n: np.array(sorted(values), np.uint64) for n, values in hashes.items()}


def _strings(location: str) -> Iterator[str]:
    for number, line in enumerate(read_text(location).splitlines(), start=1):
        if not location.endswith(".jsonl"):
            yield line
        elif line.strip():
            try:
                yield from _inside(json.loads(line))
            except json.JSONDecodeError as error:
                raise HeadwaterError(
                    f"not valid JSON ({error})", where=f"{location}, line {number}"
                ) from error


def _inside(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _inside(item)
