"""Corpora: named parts of the cleaned documents, which pretraining may weigh against each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate

from pydantic import Field

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.stage import StageConfig


class Corpus(StageConfig):
    """One corpus: the documents that were read from certain files."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    sources: tuple[str, ...] = Field(min_length=1)
    """Patterns for the file that a document was read from, such as `*/wiki/*.jsonl.gz`, `s3://bucket/crawl/*`
    or `*`; a star also stands for slashes."""


class Sorter:
    """Which corpus a document is in: the first of which a pattern fits."""

    def __init__(self, corpora: Sequence[Corpus]) -> None:
        self._patterns = [
            (corpus.name, re.compile("|".join(map(translate, corpus.sources)))) for corpus in corpora
        ]

    def corpus(self, source: str) -> str:
        """`source` is a document's: a file, and mostly a position in it (`file:12`)."""
        file = source.rpartition(":")[0]
        for name, pattern in self._patterns:
            if pattern.match(source) or pattern.match(file):
                return name
        raise HeadwaterError(
            "this document is in none of `tokenize.corpora`",
            where=source,
            fix='give one of them a pattern that fits, or add a last one with `sources: ["*"]`',
        )
