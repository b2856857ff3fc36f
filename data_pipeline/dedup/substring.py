"""Exact spans that are repeated across documents, or within one: all but one occurrence are cut out.

Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better" (https://arxiv.org/abs/2107.06499),
find spans of at least 50 BPE tokens with a suffix array over the whole corpus. Every repeated span of at
least N words is the union of the repeated windows of N words inside it, so hashes of all windows find the
same spans with files that are sorted and merged, in bounded memory and by many workers:

1. each worker writes the hashes of its part's windows (`window_file.write_windows`);
2. one process finds those that occur twice, and for each the occurrence that stays: in the document with
   the smallest rank, there the first (`repeats.find_repeats`);
3. each worker cuts the words of all other occurrences out of its part's texts (`cut`).

Words are what stands between white space, character for character: unlike tokens they need no
tokenizer, cuts never split one, and a span that is cut was literally the same elsewhere up to white
space. (Chinese, Japanese, Thai and the like: characters.) What is cut always stays somewhere: the
occurrence that stays may itself be cut by another window's, but only in favour of a place still further
ahead. (A document that its rule then drops goes with what it kept: fewer than `min_words` words.) A run
that repeats itself is left with its period.
"""

from __future__ import annotations

import re

import numpy as np
from pydantic import Field

from headwater.cluster.runtime.stage import StageConfig
from headwater.data_pipeline.text.hashed_words import HashedWords, exact, hashed_words, ngram_hashes
from headwater.data_pipeline.verdict import Rule

WHITE_SPACE = re.compile(r"\s+")


class SubstringConfig(StageConfig):
    """Repeated spans. Off by default: it takes text out of the middle of documents."""

    enabled: bool = False
    """On: spans that occur elsewhere are cut out."""
    span_words: int = Field(default=50, ge=2)
    """Shortest span that counts, in words."""
    min_words: int = Field(default=50, ge=0)
    """A document that was cut and has fewer words left is dropped."""


def words(text: str) -> HashedWords:
    """The words that spans are made of."""
    return hashed_words(text, exact())


def windows(text: str, span_words: int) -> np.ndarray:
    """uint64 [max(0, words - span_words + 1)]: window i begins with word i.

    Among W windows of a corpus about W² · log2(span_words) / 2^65 pairs of different ones have one
    hash: 0.04 expected for 5 · 10^8 windows (3 GB of text), and each costs a document one window.
    """
    return ngram_hashes(words(text).hashes, span_words)


def cut(text: str, spans: np.ndarray) -> tuple[str, dict[str, float]]:
    """The text without these words, and the scores for `rules`. `spans` is int64 [S, 2], first word and one
    past the last, in order and apart from each other. Where a span was, the widest break in and around it
    stays (paragraph, line, blank); nothing else of the text changes, but ends that were cut are
    stripped."""
    found = words(text)
    total = len(found)
    removed = int((spans[:, 1] - spans[:, 0]).sum())
    scores = {"words_left": float(total - removed), "words_cut": float(removed)}
    if not removed:
        return text, scores
    pieces: list[str] = []
    begin = last = 0  # the word after the last cut; where the last piece ended
    for first, end in [*spans.tolist(), (total, total)]:
        if first > begin:  # words begin .. first - 1 stay
            start = int(found.starts[begin]) if begin else 0
            if pieces:
                pieces.append(max(WHITE_SPACE.findall(text[last:start]), key=_width, default=""))
            last = int(found.ends[first - 1]) if first < total else len(text)
            pieces.append(text[start:last])
        begin = end
    return "".join(pieces), scores


def _width(space: str) -> tuple[int, int]:
    return space.count("\n"), len(space)


def rules(config: SubstringConfig) -> list[Rule]:
    """What was not cut passes, however short."""
    return [Rule("words_left", "mostly_repeated", least=config.min_words, since=("words_cut", 1))]
