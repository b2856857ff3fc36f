"""Passages ready to be searched: their rows, documents, words and vectors.

`Collected` holds those of one document, or of an index made before words and vectors had files of their own;
`Stored` reads those of a large index from its artifact when they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.documents import host_of
from headwater.llm.grounding.passages import Passage
from headwater.serving.retrieval.words import Postings, Words

COLUMNS = ["document_id", "url", "title", "text", "start", "end"]
DOCUMENTS = "documents.parquet"
WORDS, TITLES = "words/passages", "words/titles"
NUMBERS, VECTORS = "words/documents.npy", "vectors.npy"


@dataclass(frozen=True)
class WebPassage(Passage):
    """A passage of a page that was fetched for the question. It has no field of its own, so that whatever
    stores passages stores these alike."""


@dataclass(frozen=True)
class Filters:
    """Which documents are searched. Empty fields do not filter."""

    site: str = ""
    """A host name; its subdomains count, too."""
    language: str = ""
    since: str = ""
    until: str = ""
    """ISO 8601 dates (or beginnings of them), both inclusive, of the day a document was published or fetched.
    Documents without a date pass neither."""

    def __bool__(self) -> bool:
        return self != Filters()

    def allow(self, url: str, language: str, date: str) -> bool:
        host = host_of(url)
        site = self.site.lower()
        return (
            (not site or host == site or host.endswith(f".{site}"))
            and (not self.language or language == self.language)
            and (not self.since or (date != "" and date >= self.since))
            and (not self.until or (date != "" and date[: len(self.until)] <= self.until))
        )


class Segment(Protocol):
    """Passages numbered from 0, in the order of their documents."""

    words: Words
    documents: list[dict[str, Any]]
    """`id`, `url`, `title`, `language` and `date` of each document."""

    @property
    def places(self) -> Mapping[str, Sequence[int]]:
        """URL → its documents' numbers."""
        ...

    def rows(self, numbers: Sequence[int]) -> list[Passage]: ...

    def cosines(self, vector: np.ndarray, numbers: np.ndarray) -> np.ndarray: ...

    def nearest(self, vector: np.ndarray, count: int) -> np.ndarray:
        """Numbers of about `count` passages with the highest cosine, in any order."""
        ...


class _Documents:
    """Documents that are found by their URL."""

    documents: list[dict[str, Any]]

    @cached_property
    def places(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for number, document in enumerate(self.documents):
            found.setdefault(document["url"], []).append(number)
        return found


class Collected(_Documents):
    """Passages in memory."""

    def __init__(
        self,
        rows: Sequence[Passage],
        documents: list[dict[str, Any]],
        words: Words,
        vectors: np.ndarray,
    ) -> None:
        self._rows, self.documents, self.words, self._vectors = rows, documents, words, vectors

    def rows(self, numbers: Sequence[int]) -> list[Passage]:
        return [self._rows[number] for number in numbers]

    def cosines(self, vector: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return self._vectors[numbers] @ vector

    def nearest(self, vector: np.ndarray, count: int) -> np.ndarray:
        return best(self._vectors @ vector, count)


class Stored(_Documents):
    """The passages of an artifact with `words/`, `vectors.npy` and `documents.parquet`."""

    def __init__(self, artifact: Artifact, table: Any, near: dict[str, Any] | None) -> None:
        import pyarrow.parquet as pq

        self._artifact, self._table, self._near = artifact, table, near
        self.documents = pq.read_table(artifact.local_file(DOCUMENTS)).to_pylist()
        numbers = np.load(artifact.local_file(NUMBERS))
        self.words = Words(Postings.load(artifact, WORDS), Postings.load(artifact, TITLES), numbers)
        self._vectors = np.load(artifact.local_file(VECTORS), mmap_mode="r")
        if near is None:
            self._vectors = np.asarray(self._vectors, np.float32)

    @cached_property
    def _held(self) -> Any:
        """All rows, where every vector is compared: they are few."""
        held = self._near is None
        return self._table.search().select(COLUMNS).to_arrow().combine_chunks() if held else None

    def rows(self, numbers: Sequence[int]) -> list[Passage]:
        if self._held is not None:
            return [Passage(**row) for row in self._held.take(list(numbers)).to_pylist()]
        ascending = sorted(set(map(int, numbers)))
        found = self._table.take_offsets(ascending).select(COLUMNS).to_arrow().to_pylist()
        by_number = dict(zip(ascending, found, strict=True))
        return [Passage(**by_number[int(number)]) for number in numbers]

    def cosines(self, vector: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return np.asarray(self._vectors[numbers], np.float32) @ vector

    def nearest(self, vector: np.ndarray, count: int) -> np.ndarray:
        if self._near is None:
            return best(self._vectors @ vector, count)
        return approximate(self._table, vector, count, self._near)


def approximate(table: Any, vector: np.ndarray, count: int, near: dict[str, Any]) -> np.ndarray:
    """Numbers of about the `count` nearest passages, by the table's vector index with these settings."""
    search = table.search(vector, vector_column_name="vector").distance_type("cosine")
    search = search.nprobes(near["nprobes"]).refine_factor(near["refine_factor"])
    return np.asarray(search.select(["number", "_distance"]).limit(count).to_arrow()["number"])


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` highest scores, in any order."""
    if len(scores) <= count:
        return np.arange(len(scores))
    return np.argpartition(-scores, count - 1)[:count]


def collected(rows: Sequence[Passage], vectors: np.ndarray, language: str = "", date: str = "") -> Collected:
    """Passages of whole documents, in their order."""
    numbers: list[int] = []
    documents: list[dict[str, Any]] = []
    for row in rows:
        if not documents or documents[-1]["id"] != row.document_id:
            documents.append(
                {
                    "id": row.document_id,
                    "url": row.url,
                    "title": row.title,
                    "language": language,
                    "date": date,
                }
            )
        numbers.append(len(documents) - 1)
    words = Words.of(
        [document["title"] for document in documents],
        [row.text for row in rows],
        np.array(numbers, np.int32),
    )
    return Collected(rows, documents, words, vectors)
