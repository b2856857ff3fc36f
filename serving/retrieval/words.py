"""The words of passages and titles: an inverted index in NumPy arrays, and their BM25 scores.

`Postings` can be built from token lists, merged, saved and memory-mapped. `Words` scores the passages of one
index, each by its own text, by its whole document and by the title.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import xxhash

from headwater.cluster.storage.artifact import Artifact
from headwater.llm.grounding.sentences import content_words, stem

K1, B = 1.2, 0.75
"""Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", section 3.5."""
DOCUMENT_WEIGHT = 0.5
"""Share of the whole document's BM25 in that of a passage; the rest is that of the passage alone."""
TITLE_WEIGHT = 1.0
"""Weight of the title's BM25 beside it. Both were chosen with `benchmarks/serving/retrieval.py`."""
WORD_LENGTH = 64


@functools.lru_cache(maxsize=1 << 18)
def _term(word: str) -> int:
    return xxhash.xxh3_64_intdigest(stem(word))


def terms(text: str) -> list[int]:
    """The stems of a text's content words in order, as 64-bit hashes. Words are cut at WORD_LENGTH."""
    return [_term(word[:WORD_LENGTH]) for word in content_words(text)]


@dataclass(frozen=True)
class Postings:
    """Which texts have a term, and how often. Texts are numbered from 0."""

    terms: np.ndarray
    """uint64 [terms], ascending."""
    starts: np.ndarray
    """int64 [terms + 1]: term t has the entries starts[t]:starts[t + 1]."""
    texts: np.ndarray
    """int32 [entries]: number of the text, ascending for each term."""
    counts: np.ndarray
    """uint16 [entries]: how often the text has the term."""
    lengths: np.ndarray
    """int32 [texts]: terms of each text."""

    @staticmethod
    def of(texts: Iterable[Sequence[int]]) -> Postings:
        """The postings of texts given as their `terms`."""
        listed = list(texts)
        lengths = np.array([len(text) for text in listed], np.int32)
        flat = np.fromiter((term for text in listed for term in text), np.uint64, int(lengths.sum()))
        numbers = np.repeat(np.arange(len(listed), dtype=np.int32), lengths)
        return _sorted(flat, numbers, np.ones(len(flat), np.uint16), lengths)

    @staticmethod
    def merged(parts: Sequence[Postings]) -> Postings:
        """The postings of all parts' texts, numbered on."""
        offsets = np.cumsum([0, *(len(part.lengths) for part in parts)])
        return _sorted(
            np.concatenate([np.repeat(part.terms, np.diff(part.starts)) for part in parts]),
            np.concatenate([part.texts + np.int32(o) for part, o in zip(parts, offsets, strict=False)]),
            np.concatenate([part.counts for part in parts]),
            np.concatenate([part.lengths for part in parts]),
        )

    def of_term(self, term: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the texts that have a term, and how often each has it."""
        place = int(np.searchsorted(self.terms, np.uint64(term)))
        if place == len(self.terms) or int(self.terms[place]) != term:
            return self.texts[:0], self.counts[:0]
        span = slice(int(self.starts[place]), int(self.starts[place + 1]))
        return self.texts[span], self.counts[span]

    def save(self, artifact: Artifact, folder: str) -> None:
        for field in fields(self):
            with artifact.create(f"{folder}/{field.name}.npy") as stream:
                np.save(stream, getattr(self, field.name))

    @staticmethod
    def load(artifact: Artifact, folder: str) -> Postings:
        """Memory-mapped; from S3 through the local cache."""
        names = [field.name for field in fields(Postings)]
        return Postings(
            **{n: np.load(artifact.local_file(f"{folder}/{n}.npy"), mmap_mode="r") for n in names}
        )


def _sorted(flat: np.ndarray, numbers: np.ndarray, counts: np.ndarray, lengths: np.ndarray) -> Postings:
    """Postings of entries in the order of their texts; equal neighbours are added up."""
    order = np.argsort(flat, kind="stable")
    flat, numbers, counts = flat[order], numbers[order], counts[order]
    new_term = np.diff(flat, prepend=~flat[:1]) != 0
    new = np.flatnonzero(new_term | (np.diff(numbers, prepend=-1) != 0))
    sums = np.add.reduceat(counts.astype(np.int64), new) if len(new) else counts.astype(np.int64)
    first = np.flatnonzero(new_term[new])
    return Postings(
        flat[new][first],
        np.append(first, len(new)).astype(np.int64),
        numbers[new],
        np.minimum(sums, np.iinfo(np.uint16).max).astype(np.uint16),
        lengths,
    )


class Words:
    """BM25 over the passages of one index.

    `documents` int32 [passages] has the number of each passage's document, ascending without gaps; `titles`
    has one text per document.
    """

    def __init__(self, passages: Postings, titles: Postings, documents: np.ndarray) -> None:
        self._passages, self._titles, self.documents = passages, titles, documents
        self.first = np.flatnonzero(np.diff(documents, prepend=-1))
        """Number of each document's first passage."""
        self._lengths = np.bincount(documents, passages.lengths).astype(np.float32)
        self._scales = {
            "passages": _scale(passages.lengths),
            "documents": _scale(self._lengths),
            "titles": _scale(titles.lengths),
        }

    @staticmethod
    def of(titles: Sequence[str], texts: Sequence[str], documents: np.ndarray) -> Words:
        """Of titles (one per document) and texts (one per passage)."""
        return Words(Postings.of(map(terms, texts)), Postings.of(map(terms, titles)), documents)

    def weights(self, query: str) -> dict[int, float]:
        """The query's distinct terms with their inverse document frequencies, as shares of their sum.

        Robertson and Zaragoza's formula, kept positive as Lucene does. A document has a
        term in its text or its title.
        """
        total = len(self.first)
        found: dict[int, float] = {}
        for term in dict.fromkeys(terms(query)):
            texts, _ = self._passages.of_term(term)
            in_texts = np.count_nonzero(np.diff(self.documents[texts], prepend=-1))
            having = max(int(in_texts), len(self._titles.of_term(term)[0]))
            found[term] = math.log(1 + (total - having + 0.5) / (having + 0.5))
        whole = sum(found.values())
        return {term: idf / whole for term, idf in found.items()} if whole > 0 else {}

    def scores(self, weights: dict[int, float], like: Words | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Numbers (ascending) and scores of the passages that share a term with a query of these `weights`.

        A score is at most 1 + TITLE_WEIGHT. Lengths are compared with the averages of `like`, or of these
        passages themselves.
        """
        scales = (like or self)._scales
        alone = np.zeros(len(self.documents), np.float32)
        whole = np.zeros(len(self.first), np.float32)
        for term, weight in weights.items():
            texts, counts = self._passages.of_term(term)
            alone[texts] += (
                (1 - DOCUMENT_WEIGHT) * weight * scales["passages"](counts, texts, self._passages.lengths)
            )
            holding = self.documents[texts]
            begins = np.flatnonzero(np.diff(holding, prepend=-1))
            if len(begins):
                numbers = holding[begins]
                sums = np.add.reduceat(counts.astype(np.float32), begins)
                whole[numbers] += DOCUMENT_WEIGHT * weight * scales["documents"](sums, numbers, self._lengths)
            numbers, counts = self._titles.of_term(term)
            whole[numbers] += TITLE_WEIGHT * weight * scales["titles"](counts, numbers, self._titles.lengths)
        alone[self.first[whole > 0]] += np.float32(1e-9)  # a title alone stands for the first passage
        found = np.flatnonzero(alone)
        return found, alone[found] + whole[self.documents[found]]


class _Scale:
    """The saturation of a term's frequency: f / (f + K1 (1 - B + B length / average))."""

    def __init__(self, average: float) -> None:
        self._average = average

    def __call__(self, counts: np.ndarray, numbers: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        f = counts.astype(np.float32)
        norm = np.float32(K1 * (1 - B)) + np.float32(K1 * B / self._average) * lengths[numbers].astype(
            np.float32
        )
        return f / (f + norm)


def _scale(lengths: np.ndarray) -> _Scale:
    return _Scale(max(1.0, float(lengths.mean()) if len(lengths) else 1.0))
