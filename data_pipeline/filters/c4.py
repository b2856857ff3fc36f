"""The rules of C4 (Raffel et al. 2020, https://jmlr.org/papers/volume21/20-074/20-074.pdf) as datatrove
applies them: they remove lines from a text and reject it if too little is left."""

from __future__ import annotations

import re
from dataclasses import replace
from operator import add
from typing import ClassVar

from pydantic import Field

from headwater.data_pipeline.filters.filter import FilterConfig, Measure, Measured
from headwater.data_pipeline.text.normalise import indentation
from headwater.data_pipeline.text.words.document_text import vocabulary
from headwater.data_pipeline.text.words.languages import ENGLISH, UNSPACED
from headwater.data_pipeline.text.words.punctuation import TERMINAL_PUNCTUATION
from headwater.data_pipeline.verdict import Rejection, Rule, Scores

CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
END_PUNCTUATION = (".", "?", "!", '"', "'")
"""Ends of English lines."""
ENDS_ANYWHERE = (*TERMINAL_PUNCTUATION, '"', "'", *"”’»«」』）)…")
"""Ends of lines in other languages: the sentence-ending marks of all scripts, and quotation marks."""
ELLIPSIS = "..."
POLICY_PHRASES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)


class C4Config(FilterConfig):
    """C4's line and document rules."""

    measured_with: ClassVar[frozenset[str] | None] = frozenset(
        {"min_words_per_line", "max_word_length", "terminal_punctuation"}
    )
    rewrites: ClassVar[bool] = True

    terminal_punctuation: bool = False
    """Drop lines that do not end in . ? ! \" or '. Off as in FineWeb, because it removes too much text. In
    other languages than English, the marks of their scripts count as well."""
    min_sentences: int = Field(5, ge=0)
    """Minimum number of sentences in the remaining text."""
    min_words_per_line: int = Field(3, ge=0)
    """Lines with fewer words are dropped."""
    max_word_length: int = Field(1000, ge=1)
    """Lines with a word longer than this, in characters, are dropped."""

    def measurer(self) -> Measure:
        def rewrite(found: Measured) -> Scores | Rejection:
            result = measure(found.document.text, self, indented=True, splitter=found.splitter)
            if isinstance(result, Rejection):
                return result
            text, scores = result
            if text != found.document.text:
                found.document = replace(found.document, text=text)
            return scores

        return rewrite

    def rules(self) -> list[Rule]:
        return [Rule("sentences", "too_few_sentences", least=self.min_sentences)]


def measure(
    text: str, config: C4Config, indented: bool = False, splitter: str = ENGLISH
) -> tuple[str, Scores] | Rejection:
    """The text without the dropped lines, with its scores, or the rejection of the whole text.

    The rules ignore indentation, and datatrove drops it. `indented` restores it in the kept lines.
    """
    kept, starts = [], []
    ends, spaced = (END_PUNCTUATION if splitter == ENGLISH else ENDS_ANYWHERE), splitter not in UNSPACED
    everything = text.lower()
    suspect = any(phrase in everything for phrase in ("lorem ipsum", "javascript", *POLICY_PHRASES))
    for original in text.splitlines():
        line = original.strip()
        words = line.split() if spaced else vocabulary(splitter).words(line).strings()
        if len(line) > config.max_word_length and max(map(len, words)) > config.max_word_length:
            continue
        if "[" in line:
            line = CITATION.sub("", line)
        if config.terminal_punctuation and (not line.endswith(ends) or line.endswith(ELLIPSIS)):
            continue
        if len(words) < config.min_words_per_line:
            continue
        lower = line.lower() if suspect else ""
        if "lorem ipsum" in lower:
            return Rejection("lorem_ipsum")
        if "javascript" in lower:
            continue
        if "{" in line:
            return Rejection("curly_bracket")
        if suspect and any(phrase in lower for phrase in POLICY_PHRASES):
            continue
        kept.append(line)
        starts.append(indentation(original) if indented else "")
    scores: Scores = {"sentences": vocabulary(splitter).sentences(kept)}
    if any(starts) and len(kept) > 1:
        return "\n".join(map(add, starts, kept)).strip("\n"), scores
    return "\n".join(kept).strip(), scores
