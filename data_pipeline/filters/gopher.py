"""The repetition and quality rules of Gopher (Rae et al. 2021, https://arxiv.org/abs/2112.11446, table A1
and appendix A.1.1), with the definitions and the order of datatrove: the first rule that hits decides."""

from __future__ import annotations

import re

import numpy as np
from pydantic import Field

from cluster.stage import StageConfig
from data_pipeline.filters.marks import PUNCTUATION
from data_pipeline.filters.text import Text, WordHashes
from data_pipeline.filters.verdict import Rejection

PARAGRAPH_BREAK = re.compile(r"\n{2,}")
LINE_BREAK = re.compile(r"\n+")


class RepetitionConfig(StageConfig):
    """Gopher's repetition rules: shares of the text's paragraphs, lines and characters."""

    enabled: bool = True
    """Off: the step is passed over."""
    max_duplicate_paragraphs: float = 0.3
    """Of the paragraphs."""
    max_duplicate_paragraph_characters: float = 0.2
    """Of the characters."""
    max_duplicate_lines: float = 0.3
    """Of the lines."""
    max_duplicate_line_characters: float = 0.2
    """Of the characters."""
    top_ngrams: tuple[tuple[int, float], ...] = ((2, 0.20), (3, 0.18), (4, 0.16))
    """n, and the largest share of the characters that the most frequent n-gram may have."""
    duplicate_ngrams: tuple[tuple[int, float], ...] = (
        (5, 0.15),
        (6, 0.14),
        (7, 0.13),
        (8, 0.12),
        (9, 0.11),
        (10, 0.10),
    )
    """n, and the largest share of the characters that repeated n-grams may have."""


class QualityConfig(StageConfig):
    """Gopher's quality rules."""

    enabled: bool = True
    """Off: the step is passed over."""
    min_words: int = 50
    """Words that are not only punctuation."""
    max_words: int = 100_000
    """Words that are not only punctuation."""
    min_mean_word_length: float = 3
    """In characters."""
    max_mean_word_length: float = 10
    """In characters."""
    max_symbols_per_word: float = 0.1
    """For `#`, and for ellipses."""
    max_bullet_lines: float = 0.9
    """Share of the lines that begin with a bullet."""
    max_ellipsis_lines: float = 0.3
    """Share of the lines that end in an ellipsis."""
    min_alphabetic_words: float = 0.8
    """Share of all words, punctuation included, that hold a letter."""
    min_stop_words: int = 2
    """Distinct words of `stop_words` that must occur."""
    stop_words: tuple[str, ...] = Field(
        default=("the", "be", "to", "of", "and", "that", "have", "with"), min_length=1
    )
    """Common words of the language."""


def duplicates(pieces: list[str]) -> tuple[int, int]:
    """How many pieces were there before, and their characters."""
    if len(set(pieces)) == len(pieces):
        return 0, 0
    seen: set[str] = set()
    count = characters = 0
    for piece in pieces:
        if piece in seen:
            count += 1
            characters += len(piece)
        seen.add(piece)
    return count, characters


def top_ngram_characters(hashes: np.ndarray, lengths: np.ndarray) -> int:
    """Occurrences × length of the most frequent n-gram (of equally frequent ones, the first in the text)."""
    _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    top = first[counts == counts.max()].min()
    return int(lengths[top] * counts.max())


def duplicate_ngram_characters(hashes: np.ndarray, lengths: np.ndarray, n: int, enough: float) -> int:
    """Characters in n-grams that occurred before, counted from left to right without overlap.

    The exact count is a sequential rule. Its cheap upper bound is tried first: when all n-grams
    that occur before hold no more than `enough` characters, that bound is returned.
    """
    ordered = np.sort(hashes)
    if not (ordered[1:] == ordered[:-1]).any():
        return 0
    _, first = np.unique(hashes, return_index=True)
    repeated = np.ones(len(hashes), bool)
    repeated[first] = False
    bound = int(lengths[repeated].sum())
    if bound <= enough:
        return bound
    seen: set[int] = set()
    index = characters = 0
    keys, sizes = hashes.tolist(), lengths.tolist()
    while index < len(keys):
        if keys[index] in seen:
            characters += sizes[index]
            index += n
        else:
            seen.add(keys[index])
            index += 1
    return characters


def judge_repetition(text: Text, config: RepetitionConfig) -> Rejection | None:
    content = text.text
    if not content.strip():
        return Rejection("empty")
    pieces = (
        ("paragraph", PARAGRAPH_BREAK.split(content.strip()), config.max_duplicate_paragraphs,
         config.max_duplicate_paragraph_characters),
        ("line", LINE_BREAK.split(content), config.max_duplicate_lines, config.max_duplicate_line_characters),
    )  # fmt: skip
    for kind, split, most, most_characters in pieces:
        count, characters = duplicates(split)
        if count / len(split) > most:
            return Rejection(f"duplicate_{kind}s", count / len(split), most)
        if characters / len(content) > most_characters:
            return Rejection(f"duplicate_{kind}_characters", characters / len(content), most_characters)
    return _judge_ngrams(text.words, len(content), config)


def _judge_ngrams(words: list[str], size: int, config: RepetitionConfig) -> Rejection | None:
    if not words:
        return None
    spaced = WordHashes(words, " ")
    for n, most in config.top_ngrams:
        if len(words) >= n:
            share = top_ngram_characters(*spaced.ngrams(n)) / size
            if share > most:
                return Rejection(f"top_{n}_gram", share, most)
    joined = WordHashes(words)
    for n, most in config.duplicate_ngrams:
        if len(words) > n:
            share = duplicate_ngram_characters(*joined.ngrams(n), n, most * size) / size
            if share > most:
                return Rejection(f"duplicate_{n}_grams", share, most)
    return None


def judge_quality(text: Text, config: QualityConfig) -> Rejection | None:
    words, content = text.words, text.text
    solid = [word for word in words if word.isalnum() or not PUNCTUATION.issuperset(word)]
    if len(solid) < config.min_words:
        return Rejection("too_few_words", len(solid), config.min_words)
    if len(solid) > config.max_words:
        return Rejection("too_many_words", len(solid), config.max_words)
    mean = sum(map(len, solid)) / max(1, len(solid))
    if mean < config.min_mean_word_length:
        return Rejection("short_words", mean, config.min_mean_word_length)
    if mean > config.max_mean_word_length:
        return Rejection("long_words", mean, config.max_mean_word_length)
    every = max(1, len(words))
    hashes, ellipses = content.count("#") / every, (content.count("...") + content.count("…")) / every
    if hashes > config.max_symbols_per_word:
        return Rejection("too_many_hashes", hashes, config.max_symbols_per_word)
    if ellipses > config.max_symbols_per_word:
        return Rejection("too_many_ellipses", ellipses, config.max_symbols_per_word)
    return _judge_lines(content.splitlines(), config) or _judge_letters(words, config)


def _judge_lines(lines: list[str], config: QualityConfig) -> Rejection | None:
    every = max(1, len(lines))
    bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines) / every
    if bullets > config.max_bullet_lines:
        return Rejection("too_many_bullets", bullets, config.max_bullet_lines)
    open_ends = sum(line.rstrip().endswith(("...", "…")) for line in lines) / every
    if open_ends > config.max_ellipsis_lines:
        return Rejection("too_many_ellipsis_lines", open_ends, config.max_ellipsis_lines)
    return None


def _judge_letters(words: list[str], config: QualityConfig) -> Rejection | None:
    letters = sum(word.isalpha() or any(map(str.isalpha, word)) for word in words) / max(1, len(words))
    if letters < config.min_alphabetic_words:
        return Rejection("too_few_alphabetic_words", letters, config.min_alphabetic_words)
    stop_words = len(set(config.stop_words).intersection(words))
    if stop_words < config.min_stop_words:
        return Rejection("too_few_stop_words", stop_words, config.min_stop_words)
    return None
