"""Languages: their names, how their texts are cut into words, and FineWeb-2's limits for them.

FineWeb-2 (Penedo et al. 2025, https://arxiv.org/abs/2506.20920) set the limits of the published filters for
each language from its Wikipedia and its web pages, and published them. `languages.tsv` holds them, with
datatrove's choice of a word splitter. Limits depend on the splitter: where datatrove's is not one of ours,
and for languages without limits, a language takes those of its script (`by_script`).
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import resources

ENGLISH = "spacy en"
"""Splitter of English, and of texts whose language is not known."""
UNSPACED = frozenset({"jieba", "sudachi", "thai", "clusters"})
"""Splitters of scripts without spaces between words."""
TOP, DUPLICATE = (2, 3, 4), (5, 6, 7, 8, 9, 10)
"""Lengths of the word n-grams with a limit."""


@dataclass(frozen=True)
class Limits:
    """FineWeb-2's limits for a language, in the words of its configurations."""

    language_score: float
    """Least probability of the language by GlotLID. Other models give other probabilities."""
    dup_line_frac: float
    top_n_grams: tuple[tuple[int, float], ...]
    dup_n_grams: tuple[tuple[int, float], ...]
    line_punct_thr: float
    new_line_ratio: float
    min_avg_word_length: float
    max_avg_word_length: float
    max_non_alpha_words_ratio: float
    """In spite of its name: least fraction of words with a letter."""
    stop_words: tuple[str, ...]
    """Empty: not known."""

    def numbers(self) -> Iterator[float]:
        """All limits in order, flat."""
        yield from (self.language_score, self.dup_line_frac)
        yield from (limit for _, limit in (*self.top_n_grams, *self.dup_n_grams))
        yield from (self.line_punct_thr, self.new_line_ratio)
        yield from (self.min_avg_word_length, self.max_avg_word_length, self.max_non_alpha_words_ratio)


@dataclass(frozen=True)
class Language:
    """One language in one script."""

    code: str
    """lid.176's code (ISO 639-1 where there is one), else the label: `de`, `bar`, `srp_Latn`."""
    label: str
    """GlotLID's label: ISO 639-3 and script. Empty for a language that only lid.176 knows."""
    words: str
    """Name of the word splitter (`words.splitter`)."""
    limits: Limits | None
    """None for English, whose limits are the defaults of the filters."""

    @property
    def script(self) -> str:
        return self.label.partition("_")[2]


def named(name: str) -> Language | None:
    """The language with this code or label; None if there is none."""
    return _names().get(name)


def language_of(code: str) -> Language:
    """The language with this code. One that is not in the table is written as its label says (`xyz_Cyrl`)."""
    found = named(code)
    return Language(code, code, "spacy xx", by_script(code.partition("_")[2])) if found is None else found


def code_of(label: str) -> str:
    """A model's label as `Language.code`: `deu_Latn` → `de`. Unknown labels stay as they are."""
    found = named(label)
    return label if found is None else found.code


@functools.cache
def _names() -> dict[str, Language]:
    languages = list(map(_completed, table()))
    by_label = {language.label: language for language in languages if language.label}
    return by_label | {language.code: language for language in languages}


@functools.cache
def table() -> tuple[Language, ...]:
    """The languages of `languages.tsv`, with published limits or none."""
    text = resources.files(__package__).joinpath("languages.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.split("\n") if line and not line.startswith("#")]
    return tuple(map(_language, rows[1:]))


def _language(row: list[str]) -> Language:
    code, label, words, *numbers, stop_words = row
    limits = _limits(map(float, numbers), tuple(stop_words.split(" "))) if numbers[0] else None
    return Language(code, label, words, limits)


def _limits(numbers: Iterable[float], stop_words: tuple[str, ...]) -> Limits:
    """The inverse of `Limits.numbers`."""
    score, lines, *rest = numbers
    ngrams, (ends, newlines, shortest, longest, letters) = rest[:-5], rest[-5:]
    return Limits(
        language_score=score,
        dup_line_frac=lines,
        top_n_grams=tuple(zip(TOP, ngrams[: len(TOP)], strict=True)),
        dup_n_grams=tuple(zip(DUPLICATE, ngrams[len(TOP) :], strict=True)),
        line_punct_thr=ends,
        new_line_ratio=newlines,
        min_avg_word_length=shortest,
        max_avg_word_length=longest,
        max_non_alpha_words_ratio=letters,
        stop_words=stop_words,
    )


def _completed(language: Language) -> Language:
    if language.limits is not None or language.words == ENGLISH:
        return language
    return replace(language, limits=by_script(language.script))


@functools.cache
def by_script(script: str) -> Limits:
    """For a language without limits: medians of those with an ISO 639-1 code in the same script, or of all
    for a script without any. The mean word length depends most on the language, so its limits are the widest
    of them. There are no stop words."""
    published = [language for language in table() if language.limits and len(language.code) == 2]
    same = [language for language in published if language.script == script] or published
    limits = [language.limits for language in same if language.limits]
    columns = zip(*(each.numbers() for each in limits), strict=True)
    return replace(
        _limits(map(statistics.median, columns), ()),
        min_avg_word_length=min(each.min_avg_word_length for each in limits),
        max_avg_word_length=max(each.max_avg_word_length for each in limits),
    )
