"""The repetition and quality rules of Gopher (Rae et al. 2021, https://arxiv.org/abs/2112.11446, table A1
and appendix A.1.1), with the definitions, the order and the reasons of datatrove 0.10.1: the first rule
that hits decides."""

from __future__ import annotations

import re

from pydantic import Field

from cluster.stage import StageConfig
from data_pipeline.filters import counting
from data_pipeline.filters.text import Text
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


def _split(breaks: re.Pattern[str], shortest: str, text: str) -> list[str]:
    """`breaks.split(text)`, quickly where every break is the shortest one."""
    return breaks.split(text) if shortest + "\n" in text else text.split(shortest)


def judge_repetition(text: Text, config: RepetitionConfig) -> Rejection | None:
    content = text.text
    if not content:
        return Rejection("empty")
    pieces = (
        ("para", _split(PARAGRAPH_BREAK, "\n\n", content.strip()), config.max_duplicate_paragraphs,
         config.max_duplicate_paragraph_characters),
        ("line", _split(LINE_BREAK, "\n", content), config.max_duplicate_lines,
         config.max_duplicate_line_characters),
    )  # fmt: skip
    for kind, split, most, most_characters in pieces:
        count, characters = duplicates(split)
        if count / len(split) > most:
            return Rejection(f"dup_{kind}_frac", count / len(split), most)
        if characters / len(content) > most_characters:
            return Rejection(f"dup_{kind}_char_frac", characters / len(content), most_characters)
    words, size = text.words, len(content)
    for n, most in config.top_ngrams:
        share = counting.top_ngram_characters(words.ids, words.lengths, n) / size
        if share > most:
            return Rejection(f"top_{n}_gram", share, most)
    tables = words.lengths, words.hashes, words.powers
    for n, most in config.duplicate_ngrams:
        share = counting.duplicate_ngram_characters(words.ids, *tables, n) / size
        if share > most:
            return Rejection(f"duplicated_{n}_n_grams", share, most)
    return None


def judge_quality(text: Text, config: QualityConfig) -> Rejection | None:
    words, content = text.words, text.text
    solid, characters, letters = counting.solid_and_letters(words.ids, words.lengths, words.flags)
    if solid < config.min_words:
        return Rejection("gopher_short_doc", solid, config.min_words)
    if solid > config.max_words:
        return Rejection("gopher_long_doc", solid, config.max_words)
    mean = characters / max(1, solid)
    if mean < config.min_mean_word_length:
        return Rejection("gopher_below_avg_threshold", mean, config.min_mean_word_length)
    if mean > config.max_mean_word_length:
        return Rejection("gopher_above_avg_threshold", mean, config.max_mean_word_length)
    every = max(1, len(words))
    hashes, ellipses = content.count("#") / every, (content.count("...") + content.count("…")) / every
    if hashes > config.max_symbols_per_word:
        return Rejection("gopher_too_many_hashes", hashes, config.max_symbols_per_word)
    if ellipses > config.max_symbols_per_word:
        return Rejection("gopher_too_many_ellipsis", ellipses, config.max_symbols_per_word)
    if rejection := _judge_lines(content.splitlines(), config):
        return rejection
    if letters / every < config.min_alphabetic_words:
        return Rejection("gopher_below_alpha_threshold", letters / every, config.min_alphabetic_words)
    stop_words = words.distinct(config.stop_words)
    if stop_words < config.min_stop_words:
        return Rejection("gopher_enough_stop_words", stop_words, config.min_stop_words)
    return None


def _judge_lines(lines: list[str], config: QualityConfig) -> Rejection | None:
    every = max(1, len(lines))
    bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines) / every
    if bullets > config.max_bullet_lines:
        return Rejection("gopher_too_many_bullets", bullets, config.max_bullet_lines)
    open_ends = sum(line.rstrip().endswith(("...", "…")) for line in lines) / every
    if open_ends > config.max_ellipsis_lines:
        return Rejection("gopher_too_many_end_ellipsis", open_ends, config.max_ellipsis_lines)
    return None
