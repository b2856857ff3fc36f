"""Hybrid search: exact nearest vectors and BM25, fused by rank.

Vector search is exhaustive, without an approximate index: exact, and some ten milliseconds for up to a few
hundred thousand passages.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, TypeVar

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.filesystem import filesystem, is_remote
from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.sentences import content_stems
from headwater.serving.retrieval.embed import load_embedder

FOLDER = "lancedb"
TABLE = "passages"
DESCRIPTION = "index.json"
CANDIDATES = 50
"""Number of passages taken from each of the two rankings."""
RRF_K = 60
"""Cormack, Clarke and Büttcher 2009, "Reciprocal Rank Fusion outperforms Condorcet …", section 3."""
COSINE_WEIGHT = 0.6
"""Relevance is COSINE_WEIGHT × cosine + (1 - COSINE_WEIGHT) × share of the query's content words in the
passage or its title. BM25 scores and ranks do not tell: rare words make them as high for passages about
something else."""
MIN_RELEVANCE = 0.6
"""Chosen with `benchmarks/refusals.py` for WordLlama; docs/log.md has the figures."""
REQUEST_WORDS = """
describe explain happen happened happening help know make many mean much news please tell today
"""
"""Question words without a topic: they do not count as content words of the query."""
QUERY_WORDS = 200
COLUMNS = ["id", "document_id", "url", "title", "text", "start", "end"]

Item = TypeVar("Item", bound=Hashable)


def reciprocal_rank_fusion(rankings: Iterable[Sequence[Item]], k: int = RRF_K) -> list[tuple[Item, float]]:
    """Items with their score, the sum of 1 / (k + rank) over the rankings (ranks from 1), best first.

    Ties keep the order of first occurrence.
    """
    scores: dict[Item, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, start=1):
            scores[item] = scores.get(item, 0.0) + 1.0 / (k + rank)
    return sorted(scores.items(), key=lambda pair: -pair[1])


def connect(location: str) -> Any:
    """A LanceDB database in a folder or on S3, with the credentials that the store itself uses."""
    import lancedb

    if not is_remote(location):
        return lancedb.connect(filesystem(location)[1])
    options = {}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        options = {"aws_endpoint": endpoint, "allow_http": str(endpoint.startswith("http://")).lower()}
    return lancedb.connect(location, storage_options=options)


class PassageIndex:
    """An opened `index` artifact."""

    def __init__(self, location: str) -> None:
        artifact = Artifact(location)
        if not artifact.exists(DESCRIPTION):
            raise HeadwaterError(
                "no passage index is here", where=location, fix="run the stage `index`, or correct the path"
            )
        self.description: dict[str, Any] = artifact.read_json(DESCRIPTION)
        self._embed = load_embedder(self.description["embedding"])
        self._table = connect(artifact.path(FOLDER)).open_table(TABLE)

    def search(
        self, query: str, limit: int = 4, per_document: int = 2, min_relevance: float = MIN_RELEVANCE
    ) -> list[Passage]:
        """The best passages of at least `min_relevance` (0 to 1), best first; none when nothing is about
        the query."""
        query = " ".join(query.split()[:QUERY_WORDS])
        if not query:
            return []
        vector = self._embed([query])[0]
        ranked = (self._by_words(query), self._by_vector(vector))
        rows = {row["id"]: row for found in ranked for row in found}
        asked = content_stems(query) - _REQUESTS
        fused = reciprocal_rank_fusion([[row["id"] for row in found] for found in ranked])
        passages = (
            _passage(rows[key], score)
            for key, score in fused
            if _relevance(asked, float(vector @ rows[key]["vector"]), rows[key]) >= min_relevance
        )
        return _diverse(passages, limit, per_document)

    def _by_vector(self, vector: Any) -> list[dict[str, Any]]:
        search = self._table.search(vector, vector_column_name="vector").distance_type("cosine")
        found = search.select([*COLUMNS, "vector", "_distance"]).limit(CANDIDATES).to_list()
        return sorted(found, key=lambda row: (row["_distance"], row["id"]))

    def _by_words(self, query: str) -> list[dict[str, Any]]:
        """BM25 over title and text; the better of the two fields is the passage's score."""
        from lancedb.query import MultiMatchQuery

        # A query object, so that the user's text is never parsed as query syntax.
        search = self._table.search(MultiMatchQuery(query, ["title", "text"]))  # type: ignore[call-arg]
        found = search.select([*COLUMNS, "vector", "_score"]).limit(CANDIDATES).to_list()
        return sorted(found, key=lambda row: (-row["_score"], row["id"]))


_REQUESTS = content_stems(REQUEST_WORDS)


def _relevance(asked: set[str], cosine: float, row: dict[str, Any]) -> float:
    held = len(asked & content_stems(f"{row['title']} {row['text']}")) / max(1, len(asked))
    return COSINE_WEIGHT * cosine + (1 - COSINE_WEIGHT) * held


def _passage(row: dict[str, Any], score: float) -> Passage:
    fields = {name: row[name] for name in COLUMNS if name != "id"}
    return Passage(**fields, score=score)


def _diverse(passages: Iterable[Passage], limit: int, per_document: int) -> list[Passage]:
    """The first `limit` passages, with at most `per_document` per document."""
    taken: list[Passage] = []
    counts: dict[str, int] = {}
    for passage in passages:
        if len(taken) == limit:
            break
        if counts.get(passage.document_id, 0) < per_document:
            counts[passage.document_id] = counts.get(passage.document_id, 0) + 1
            taken.append(passage)
    return taken
