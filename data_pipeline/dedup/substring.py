"""Exact substring deduplication: cuts all but one occurrence of spans repeated in or across documents.

Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better" (https://arxiv.org/abs/2107.06499),
find spans of at least 50 BPE tokens with a suffix array over the whole corpus. A repeated span of at least
N words is the union of its repeated windows of N words. Hashes of all windows therefore find the same
spans by sorting and merging files, in bounded memory and with many workers:

1. each worker writes the hashes of its part's windows (`window_file.write_windows`);
2. one process finds the windows that occur twice, and which occurrence of each to keep: the first one in
   the document with the smallest rank (`repeats.find_repeats`);
3. each worker cuts the words of all other occurrences from its part's texts (`cut`).

Words are separated by white space and compared exactly. They need no tokenizer, cuts never split one, and a
cut span occurs elsewhere with at most different white space. (In Chinese, Japanese, Thai and similar scripts,
a word is a character.) One occurrence of a cut span always remains: a kept occurrence may be cut by another
window, but only in favour of an earlier one. The exception is a document that falls below `min_words` and is
dropped. A periodic run is reduced to one period.
"""

from __future__ import annotations

import re

import numpy as np
from pydantic import Field

from headwater.cluster.runtime.stage import StageConfig
from headwater.data_pipeline.text.words.hashed_words import HashedWords, exact, hashed_words, ngram_hashes
from headwater.data_pipeline.verdict import Rule

WHITE_SPACE = re.compile(r"\s+")


class SubstringConfig(StageConfig):
    """Settings of substring deduplication. Off by default, because it cuts text from within documents."""

    enabled: bool = False
    """Cut spans that occur elsewhere in the corpus."""
    span_words: int = Field(default=50, ge=2)
    """Minimum length of a repeated span, in words. Lower values cut more text."""
    min_words: int = Field(default=50, ge=0)
    """Minimum number of words that must remain. Documents cut below it are dropped."""


def words(text: str) -> HashedWords:
    """Words of the text, the units of spans."""
    return hashed_words(text, exact())


def windows(text: str, span_words: int) -> np.ndarray:
    """uint64 [max(0, words - span_words + 1)]: hashes of all windows; window i starts at word i.

    A corpus of W windows has about W² · log2(span_words) / 2^65 hash collisions: 0.04 expected for
    5 · 10^8 windows (3 GB of text). Each collision wrongly cuts one window.
    """
    return ngram_hashes(words(text).hashes, span_words)


def cut(text: str, spans: np.ndarray) -> tuple[str, dict[str, float]]:
    """The text without the words in `spans`, and the scores for `rules`. `spans` is int64 [S, 2]: first word
    and one past the last, sorted and disjoint. Each span leaves the widest break in or around it (paragraph,
    line, blank). The rest of the text is unchanged, except that cut ends are stripped."""
    found = words(text)
    total = len(found)
    removed = int((spans[:, 1] - spans[:, 0]).sum())
    scores = {"words_left": float(total - removed), "words_cut": float(removed)}
    if not removed:
        return text, scores
    pieces: list[str] = []
    begin = last = 0  # word after the last cut; end of the last piece
    for first, end in [*spans.tolist(), (total, total)]:
        if first > begin:  # keep words begin .. first - 1
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
    """Rejects a text that was cut to fewer than `min_words` words; uncut texts always pass."""
    return [Rule("words_left", "mostly_repeated", least=config.min_words, since=("words_cut", 1))]
