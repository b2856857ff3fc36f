"""The repetition and quality rules of Gopher (Rae et al. 2021, https://arxiv.org/abs/2112.11446, table A1
and appendix A.1.1), with the definitions, order and reasons of datatrove 0.10.1. The first rule that rejects
decides."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from headwater.cluster.runtime.stage import NonEmpty
from headwater.data_pipeline.filters.filter import FilterConfig, Measure
from headwater.data_pipeline.text.words import counting
from headwater.data_pipeline.text.words.document_text import Text
from headwater.data_pipeline.verdict import Rule, Scores

PARAGRAPH_BREAK = re.compile(r"\n{2,}")
LINE_BREAK = re.compile(r"\n+")


NgramLimit = tuple[Annotated[int, Field(ge=1)], Annotated[float, Field(ge=0)]]


class RepetitionConfig(FilterConfig):
    """Gopher's repetition rules. Fractions are between 0 and 1."""

    measured_with: ClassVar[frozenset[str] | None] = frozenset()

    max_duplicate_paragraphs: float = Field(0.3, ge=0)
    """Maximum fraction of repeated paragraphs."""
    max_duplicate_paragraph_characters: float = Field(0.2, ge=0)
    """Maximum fraction of characters in repeated paragraphs."""
    max_duplicate_lines: float = Field(0.3, ge=0)
    """Maximum fraction of repeated lines."""
    max_duplicate_line_characters: float = Field(0.2, ge=0)
    """Maximum fraction of characters in repeated lines."""
    top_ngrams: tuple[NgramLimit, ...] = ((2, 0.20), (3, 0.18), (4, 0.16))
    """Pairs of n and the maximum fraction of characters in the most frequent word n-gram."""
    duplicate_ngrams: tuple[NgramLimit, ...] = (
        (5, 0.15),
        (6, 0.14),
        (7, 0.13),
        (8, 0.12),
        (9, 0.11),
        (10, 0.10),
    )
    """Pairs of n and the maximum fraction of characters in repeated word n-grams."""

    def measurer(self) -> Measure:
        return lambda found: measure_repetition(found.text, self)

    def rules(self) -> list[Rule]:
        limits = [
            ("dup_para_frac", self.max_duplicate_paragraphs),
            ("dup_para_char_frac", self.max_duplicate_paragraph_characters),
            ("dup_line_frac", self.max_duplicate_lines),
            ("dup_line_char_frac", self.max_duplicate_line_characters),
            *((f"top_{n}_gram", most) for n, most in self.top_ngrams),
            *((f"duplicated_{n}_n_grams", most) for n, most in self.duplicate_ngrams),
        ]
        return [Rule("empty", "empty"), *(Rule(name, name, most=most) for name, most in limits)]


class QualityConfig(FilterConfig):
    """Gopher's quality rules."""

    measured_with: ClassVar[frozenset[str] | None] = frozenset({"stop_words"})

    min_words: int = Field(50, ge=0)
    """Minimum number of words, not counting punctuation."""
    max_words: int = Field(100_000, ge=1)
    """Maximum number of words, not counting punctuation."""
    min_mean_word_length: float = Field(3, ge=0)
    """Minimum mean word length, in characters."""
    max_mean_word_length: float = Field(10, gt=0)
    """Maximum mean word length, in characters."""
    max_symbols_per_word: float = Field(0.1, ge=0)
    """Maximum number of `#` per word, and of ellipses per word."""
    max_bullet_lines: float = Field(0.9, ge=0)
    """Maximum fraction of lines that start with a bullet."""
    max_ellipsis_lines: float = Field(0.3, ge=0)
    """Maximum fraction of lines that end in an ellipsis."""
    min_alphabetic_words: float = Field(0.8, ge=0, le=1)
    """Minimum fraction of words that contain a letter. Punctuation marks count as words here."""
    min_stop_words: int = Field(2, ge=0)
    """Minimum number of distinct `stop_words` in the text."""
    stop_words: tuple[NonEmpty, ...] = Field(
        default=("the", "be", "to", "of", "and", "that", "have", "with"), min_length=1
    )
    """Common English words. Other languages have their own (`language.per_language`)."""

    @model_validator(mode="after")
    def _something_can_pass(self) -> QualityConfig:
        for low, high in (("min_words", "max_words"), ("min_mean_word_length", "max_mean_word_length")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"`{low}` ({getattr(self, low):g}) is above `{high}` ({getattr(self, high):g})"
                )
        return self

    def measurer(self) -> Measure:
        return lambda found: measure_quality(found.text, self)

    def rules(self) -> list[Rule]:
        return [
            Rule("words", "gopher_short_doc", least=self.min_words),
            Rule("words", "gopher_long_doc", most=self.max_words),
            Rule("mean_word_length", "gopher_below_avg_threshold", least=self.min_mean_word_length),
            Rule("mean_word_length", "gopher_above_avg_threshold", most=self.max_mean_word_length),
            Rule("hashes", "gopher_too_many_hashes", most=self.max_symbols_per_word),
            Rule("ellipses", "gopher_too_many_ellipsis", most=self.max_symbols_per_word),
            Rule("bullets", "gopher_too_many_bullets", most=self.max_bullet_lines),
            Rule("open_ends", "gopher_too_many_end_ellipsis", most=self.max_ellipsis_lines),
            Rule("alphabetic", "gopher_below_alpha_threshold", least=self.min_alphabetic_words),
            Rule("stop_words", "gopher_enough_stop_words", least=self.min_stop_words),
        ]


def duplicates(pieces: list[str]) -> tuple[int, int]:
    """Number of repeated pieces, and their characters."""
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
    """`breaks.split(text)`, with a fast path if every break equals `shortest`."""
    return breaks.split(text) if shortest + "\n" in text else text.split(shortest)


def measure_repetition(text: Text, config: RepetitionConfig) -> Scores:
    content = text.text
    if not content:
        return {"empty": 1}
    scores: Scores = {}
    pieces = (
        ("para", _split(PARAGRAPH_BREAK, "\n\n", content.strip())),
        ("line", _split(LINE_BREAK, "\n", content)),
    )
    for kind, split in pieces:
        count, characters = duplicates(split)
        scores[f"dup_{kind}_frac"] = count / len(split)
        scores[f"dup_{kind}_char_frac"] = characters / len(content)
    ids, table, size = text.words.ids, text.words.vocabulary, len(content)
    lengths = table.lengths.values
    for n, _ in config.top_ngrams:
        scores[f"top_{n}_gram"] = counting.top_ngram_characters(ids, lengths, n) / size
    tables = lengths, table.hashes.values, table.powers.values
    for n, _ in config.duplicate_ngrams:
        repeated = counting.duplicate_ngram_characters(ids, *tables, n)
        scores[f"duplicated_{n}_n_grams"] = repeated / size
    return scores


def measure_quality(text: Text, config: QualityConfig) -> Scores:
    words, content = text.words, text.text
    lengths, flags = words.vocabulary.lengths.values, words.vocabulary.flags.values
    solid, characters, letters = counting.solid_and_letters(words.ids, lengths, flags)
    every, lines = max(1, len(words)), content.splitlines()
    return {
        "words": solid,
        "mean_word_length": characters / max(1, solid),
        "hashes": content.count("#") / every,
        "ellipses": (content.count("...") + content.count("…")) / every,
        "bullets": sum(line.lstrip().startswith(("•", "-")) for line in lines) / max(1, len(lines)),
        "open_ends": sum(line.rstrip().endswith(("...", "…")) for line in lines) / max(1, len(lines)),
        "alphabetic": letters / every,
        "stop_words": words.distinct(config.stop_words),
    }
