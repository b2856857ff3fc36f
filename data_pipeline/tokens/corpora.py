"""Corpora: named subsets of the cleaned documents, which pretraining can weight separately."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate

from pydantic import Field

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.stage import NonEmpty, StageConfig


class Corpus(StageConfig):
    """One corpus: the documents read from certain files."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    sources: tuple[NonEmpty, ...] = Field(min_length=1)
    """Patterns of the source files, such as `*/wiki/*.jsonl.gz`, `s3://bucket/crawl/*` or `*`. A star also
    matches slashes."""


class Sorter:
    """Assigns each document to the first corpus with a matching pattern."""

    def __init__(self, corpora: Sequence[Corpus]) -> None:
        self._patterns = [
            (corpus.name, re.compile("|".join(map(translate, corpus.sources)))) for corpus in corpora
        ]

    def corpus(self, source: str) -> str:
        """Corpus of a document. `source` is its file, usually with a position (`file:12`)."""
        file = source.rpartition(":")[0]
        for name, pattern in self._patterns:
            if pattern.match(source) or pattern.match(file):
                return name
        raise HeadwaterError(
            "no corpus in `tokenize.corpora` matches this document",
            where=source,
            fix='add a matching pattern to one of them, or a last corpus with `sources: ["*"]`',
        )
