"""Hybrid search: BM25 and vectors, fused by a weighted sum, over an index and its changes.

BM25 is divided by the query's whole idf and cosines are at most 1, so both are shares, and passages of
several segments can be compared.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.filesystem import filesystem, is_remote
from headwater.llm.grounding.passages import Passage, title_line
from headwater.llm.grounding.sentences import content_stems, words
from headwater.serving.retrieval.changes import Changes
from headwater.serving.retrieval.embed import Embedder, load_embedder
from headwater.serving.retrieval.passages import (
    COLUMNS,
    DOCUMENTS,
    Filters,
    Segment,
    Stored,
    best,
    collected,
)
from headwater.serving.retrieval.words import Words

FOLDER = "lancedb"
TABLE = "passages"
DESCRIPTION = "index.json"
CANDIDATES = 100
"""Number of passages taken from each of the two rankings."""
READ = 60
"""Of these, so many of the best (more for a longer list) are read, to compare the order of words."""
READ_MORE = 2
"""Passages of one document that are read beyond those that it may have in the result."""
VECTOR_WEIGHT = 0.35
"""A passage's score is (1 - VECTOR_WEIGHT) × BM25 + VECTOR_WEIGHT × cosine + ORDER_WEIGHT × the square of
the share of the query's neighbouring words that are neighbours in the passage (Metzler and Croft 2005, "A
Markov random field model for term dependencies"). Chosen with `benchmarks/serving/retrieval.py`."""
ORDER_WEIGHT = 0.3
COSINE_WEIGHT = 0.6
"""Relevance is COSINE_WEIGHT × cosine + (1 - COSINE_WEIGHT) × share of the query's content words in the
passage or its title. BM25 scores and ranks do not tell: rare words make them as high for passages about
something else."""
MIN_RELEVANCE = 0.6
"""Chosen with `benchmarks/serving/refusals.py` for WordLlama; docs/log.md has the figures."""
REQUEST_WORDS = """
describe explain happen happened happening help know make many mean much news please tell today
"""
"""Question words without a topic: they do not count as content words of the query."""
QUERY_WORDS = 200
QUERY_CHARACTERS = 4000


def connect(location: str) -> Any:
    """A LanceDB database in a folder or on S3, with the credentials that the store itself uses."""
    import lancedb

    if not is_remote(location):
        return lancedb.connect(filesystem(location)[1])
    options = {}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        options = {"aws_endpoint": endpoint, "allow_http": str(endpoint.startswith("http://")).lower()}
    return lancedb.connect(location, storage_options=options)


@dataclass(frozen=True)
class Found:
    """A passage that a search has found, with its relevance to the query (0 to 1)."""

    passage: Passage
    relevance: float


class PassageIndex:
    """An opened `index` artifact, with the documents that were added, replaced and deleted since."""

    def __init__(self, location: str) -> None:
        artifact = Artifact(location)
        if not artifact.exists(DESCRIPTION):
            raise HeadwaterError(
                "no passage index is here", where=location, fix="run the stage `index`, or correct the path"
            )
        self.description: dict[str, Any] = artifact.read_json(DESCRIPTION)
        self._embed = load_embedder(self.description["embedding"])
        table = connect(artifact.path(FOLDER)).open_table(TABLE)
        self._base = _base(artifact, table, self.description.get("near"))
        self.changes = Changes(
            location,
            self._base,
            self._embed,
            self.description.get("passage_words", 80),
            self.description.get("overlap_words", 20),
        )

    def search(
        self,
        query: str,
        limit: int = 4,
        per_document: int = 2,
        min_relevance: float = MIN_RELEVANCE,
        web: Segment | None = None,
    ) -> list[Passage]:
        """The best passages of at least `min_relevance` (0 to 1), best first; none when nothing is about
        the query. `web`: as for `find`."""
        found = self.find(query, limit, per_document, min_relevance, web=web)
        return [each.passage for each in found]

    def find(
        self,
        query: str,
        limit: int,
        per_document: int,
        min_relevance: float = 0.0,
        filters: Filters = Filters(),  # noqa: B008 - frozen
        web: Segment | None = None,
    ) -> list[Found]:
        """Like `search`, with the relevance of each passage, among the documents that `filters` allow and
        the pages of `web`, each of which stands for the document of its URL."""
        newer = {document["url"] for document in web.documents} if web else set()
        segments = [
            (segment, _denied(segment, hidden, filters, newer)) for segment, hidden in self.changes.current()
        ]
        segments += [(web, None)] if web else []
        return ranked(query, segments, self._base.words, self._embed, limit, per_document, min_relevance)


def ranked(
    query: str,
    segments: Sequence[tuple[Segment, np.ndarray | None]],
    words: Words,
    embed: Embedder,
    limit: int,
    per_document: int,
    min_relevance: float,
) -> list[Found]:
    """The best passages of segments, each with the documents that must not be found (bool [documents]).

    `words`: what the weights of the query's terms and the average lengths are taken from.
    """
    query = " ".join(query[:QUERY_CHARACTERS].split()[:QUERY_WORDS])
    if not query:
        return []
    weights = words.weights(query)
    vector = embed([query])[0]
    candidates = [
        candidate
        for segment, denied in segments
        for candidate in _candidates(segment, denied, words, weights, vector)
    ]
    chosen = _spread(candidates, max(READ, 2 * limit), per_document + READ_MORE)
    pairs = _pairs(query)
    scored = sorted(
        (
            (candidate.score + ORDER_WEIGHT * _in_order(pairs, passage.text), candidate.cosine, passage)
            for candidate, passage in _read(chosen)
        ),
        key=lambda each: (-each[0], each[2].document_id, each[2].start),
    )
    asked = content_stems(query) - _REQUESTS
    found = (
        Found(replace(passage, title=title_line(passage.title), score=score), relevance)
        for score, cosine, passage in scored
        if (relevance := _relevance(asked, cosine, passage)) >= min_relevance
    )
    return _diverse(found, limit, per_document)


def _candidates(
    segment: Segment,
    denied: np.ndarray | None,
    like: Words,
    weights: dict[int, float],
    vector: np.ndarray,
) -> list[_Candidate]:
    numbers, by_words = segment.words.scores(weights, like)
    more = 4 if denied is not None else 1
    near = segment.nearest(vector, CANDIDATES * more)
    if denied is not None:
        documents = segment.words.documents
        kept = ~denied[documents[numbers]]
        numbers, by_words = numbers[kept], by_words[kept]
        near = near[~denied[documents[near]]]
    top = best(by_words, CANDIDATES)
    chosen = np.union1d(numbers[top], near)
    cosines = segment.cosines(vector, chosen)
    scores = np.zeros(len(chosen), np.float32)
    if len(numbers):
        places = np.minimum(np.searchsorted(numbers, chosen), len(numbers) - 1)
        scores = np.where(numbers[places] == chosen, by_words[places], 0)
    total = (1 - VECTOR_WEIGHT) * scores + VECTOR_WEIGHT * np.clip(cosines, 0, 1)
    return [
        _Candidate(segment, int(number), float(score), float(cosine))
        for number, score, cosine in zip(chosen, total, cosines, strict=True)
    ]


@dataclass(frozen=True)
class _Candidate:
    segment: Segment
    number: int
    score: float
    cosine: float


def _base(artifact: Artifact, table: Any, near: dict[str, Any] | None) -> Segment:
    if artifact.exists(DOCUMENTS):
        return Stored(artifact, table, near)
    # An index of version 1 has the table alone.
    rows = table.search().select([*COLUMNS, "vector"]).to_arrow()
    vectors = rows["vector"].combine_chunks()
    return collected(
        [Passage(**row) for row in rows.select(COLUMNS).to_pylist()],
        np.asarray(vectors.flatten(), np.float32).reshape(len(rows), -1),
    )


def _denied(
    segment: Segment, hidden: np.ndarray | None, filters: Filters, newer: set[str]
) -> np.ndarray | None:
    """Which documents of a segment must not be found; None if all may. `newer`: URLs of other documents that
    stand for those of this segment."""
    if not filters and not newer & segment.places.keys():
        return hidden
    denied = np.zeros(len(segment.documents), bool)
    if filters:
        found = (filters.allow(d["url"], d["language"], d["date"]) for d in segment.documents)
        denied = ~np.fromiter(found, bool, len(segment.documents))
    denied[[place for url in newer for place in segment.places.get(url, ())]] = True
    return denied if hidden is None else denied | hidden


def _spread(candidates: list[_Candidate], count: int, per_document: int) -> list[_Candidate]:
    """The best candidates, of each document at most so many."""
    counts: dict[tuple[int, int], int] = {}
    chosen: list[_Candidate] = []
    for candidate in sorted(candidates, key=lambda c: -c.score):
        place = (id(candidate.segment), int(candidate.segment.words.documents[candidate.number]))
        counts[place] = counts.get(place, 0) + 1
        if counts[place] <= per_document and len(chosen) < count:
            chosen.append(candidate)
    return chosen


def _read(candidates: Sequence[_Candidate]) -> Iterator[tuple[_Candidate, Passage]]:
    segments = {id(candidate.segment): candidate.segment for candidate in candidates}
    for key, segment in segments.items():
        own = [candidate for candidate in candidates if id(candidate.segment) == key]
        yield from zip(own, segment.rows([candidate.number for candidate in own]), strict=True)


_REQUESTS = content_stems(REQUEST_WORDS)


def _pairs(query: str) -> set[str]:
    said = words(query)
    return {f" {one} {other} " for one, other in pairwise(said)}


def _in_order(pairs: set[str], text: str) -> float:
    """Square of the share of the pairs of words that are neighbours in the text."""
    if not pairs:
        return 0.0
    padded = f" {' '.join(words(text))} "
    return (sum(pair in padded for pair in pairs) / len(pairs)) ** 2


def _relevance(asked: set[str], cosine: float, passage: Passage) -> float:
    held = len(asked & content_stems(f"{passage.title} {passage.text}")) / max(1, len(asked))
    return COSINE_WEIGHT * cosine + (1 - COSINE_WEIGHT) * held


def _diverse(found: Iterable[Found], limit: int, per_document: int) -> list[Found]:
    """The first `limit` passages, with at most `per_document` per document."""
    taken: list[Found] = []
    counts: dict[str, int] = {}
    for each in found:
        if len(taken) == limit:
            break
        document = each.passage.document_id
        if counts.get(document, 0) < per_document:
            counts[document] = counts.get(document, 0) + 1
            taken.append(each)
    return taken
