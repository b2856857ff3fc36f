"""Explains from the artifacts why a document was kept or dropped, and where its tokens are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.filesystem import filesystem
from headwater.data_pipeline.corpus import KEPT, REJECTED
from headwater.data_pipeline.tokens.shards import INDEX, SPLITS

WHY = ("id", "url", "title", "source", "step", "reason", "score", "threshold", "duplicate_of")
WHAT = ("id", "url", "title", "source", "language")


@dataclass(frozen=True)
class Fate:
    """Decision on one document."""

    kept: bool
    file: str
    """File of the `clean` artifact that contains the document."""
    row: dict[str, Any]
    """Columns except the text. Rejected documents also have step, reason, score, threshold, duplicate_of."""


@dataclass(frozen=True)
class TokenPlace:
    split: str
    shard: str
    rows: tuple[int, ...]
    """Rows of the shard that contain tokens of the document."""
    start: int
    """Start of the document in the first of these rows."""


def explain(corpus: Artifact, wanted: str) -> list[Fate]:
    """Decisions on all documents with this id or URL; empty if there are none."""
    return list(_fates(corpus, lambda table: pc.or_(_is(table, "id", wanted), _is(table, "url", wanted))))


def matching(corpus: Artifact, text: str, most: int) -> list[Fate]:
    """Decisions on at most so many documents with this id, or whose URL or title contain the text in any
    case; kept ones first."""

    def hit(table: pa.Table) -> pa.ChunkedArray:
        inside = [pc.match_substring(table[name], text, ignore_case=True) for name in ("url", "title")]
        return pc.or_(_is(table, "id", text), pc.or_(*(pc.fill_null(each, False) for each in inside)))

    return list(itertools.islice(_fates(corpus, hit), most))


def _is(table: pa.Table, column: str, value: str) -> pa.ChunkedArray:
    return pc.equal(table[column], value)


def _fates(corpus: Artifact, hit: Callable[[pa.Table], pa.ChunkedArray]) -> Iterator[Fate]:
    for folder, columns in ((KEPT, WHAT), (REJECTED, WHY)):
        for name in corpus.files(folder, ".parquet"):
            fs, path = filesystem(corpus.path(name))
            table = pq.read_table(path, columns=list(columns), filesystem=fs)
            for row in table.filter(hit(table)).to_pylist():
                yield Fate(folder == KEPT, name, row)


def kept_documents(
    corpus: Artifact, identifiers: Collection[str], parts: Collection[str] | None = None
) -> dict[str, dict[str, Any]]:
    """id → columns (WHAT) of the kept documents with these ids. `parts` limits the search to files with these
    stems, which shards share."""
    wanted = pa.array(sorted(set(identifiers)), pa.string())
    found: dict[str, dict[str, Any]] = {}
    for name in corpus.files(KEPT, ".parquet"):
        if parts is not None and PurePosixPath(name).stem not in parts:
            continue
        fs, path = filesystem(corpus.path(name))
        table = pq.read_table(path, columns=list(WHAT), filesystem=fs)
        found |= {row["id"]: row for row in table.filter(pc.is_in(table["id"], wanted)).to_pylist()}
    return found


def token_places(rows: Artifact, document_id: str) -> list[TokenPlace]:
    """Positions of a kept document's tokens in a `tokenize` artifact."""
    places = []
    index = rows.read_json(INDEX)
    for split in SPLITS:
        for shard in index["splits"][split]["shards"]:
            name = f"{split}/{shard['name']}"
            with pa.memory_map(str(rows.local(name))) as source:
                batch = pa.ipc.open_file(source).get_batch(0)
                parents = pc.list_parent_indices(batch["document_ids"])
                documents = pc.equal(pc.list_flatten(batch["document_ids"]), document_id)
                rows_with_it = parents.filter(documents).to_pylist()
                if rows_with_it:
                    first = pc.list_flatten(batch["starts"]).filter(documents)[0].as_py()
                    places.append(TokenPlace(split, name, tuple(rows_with_it), first))
    return places
