"""The score table: one row per document read, with everything that its decision depends on except the text.

Columns: id, url, source; `characters.read` and `characters.<step>` for each step that rewrites the text;
`<step>.<name>` for each score (null: not measured); `pii.<kind>`, the number of replacements; `stopped_by`,
`reason`, `score`, `threshold` for a document that a step stopped; digest and MinHash keys of its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.clean.steps import CleanConfig
from headwater.data_pipeline.dedup.exact import text_digest
from headwater.data_pipeline.dedup.minhash import MinHasher
from headwater.data_pipeline.filters.filter import Measured
from headwater.data_pipeline.filters.pii import KINDS
from headwater.data_pipeline.text.words.languages import ENGLISH

SCORES = "scores"


def score_names(config: CleanConfig, step: str) -> dict[str, pa.DataType]:
    """Names and types of a step's stored scores: all that its rules read."""
    names: dict[str, pa.DataType] = {}
    for rule in config.rules(step):
        names[rule.score] = pa.string() if rule.among is not None else pa.float64()
        for other in (rule.shows, rule.since):
            if other is not None:
                names.setdefault(other[0], pa.float64())
    return names


def schema(config: CleanConfig) -> pa.Schema:
    fields = [pa.field(name, pa.string()) for name in ("id", "url", "source")]
    rewriting = [name for name in config.names() if config.rewrites(name)]
    fields += [pa.field(f"characters.{name}", pa.int64()) for name in ("read", *rewriting)]
    for step in config.own_steps():
        fields += [pa.field(f"{step}.{name}", kind) for name, kind in score_names(config, step).items()]
    fields += [pa.field(f"pii.{kind}", pa.int32()) for kind, *_ in KINDS]
    fields += [pa.field("stopped_by", pa.string()), pa.field("reason", pa.string())]
    fields += [pa.field("score", pa.float64()), pa.field("threshold", pa.float64())]
    buckets = config.minhash_dedup.buckets if config.minhash_dedup.enabled else 0
    fields.append(pa.field("digest", pa.list_(pa.uint64(), 2)))
    if buckets:
        fields.append(pa.field("keys", pa.list_(pa.uint64(), buckets)))
    return pa.schema(fields)


class Signer:
    """Computes the keys by which documents are compared."""

    def __init__(self, config: CleanConfig) -> None:
        self._minhash = config.minhash_dedup
        self._hasher = MinHasher(config.minhash_dedup)

    def __call__(self, text: str, splitter: str = ENGLISH) -> dict[str, np.ndarray]:
        """`digest`, uint64 [2], and `keys`, uint64 [buckets]: all 0 for a text too short for a signature."""
        keys = self._hasher.buckets(text, splitter) if self._minhash.enabled else np.zeros(0, np.uint64)
        return {"digest": np.frombuffer(text_digest(text), np.uint64), "keys": keys}


def score_row(found: Measured, signature: dict[str, np.ndarray]) -> dict[str, Any]:
    """The document's row of the score table."""
    document = found.document
    row: dict[str, Any] = {"id": document.id, "url": document.url, "source": document.source}
    row |= {f"characters.{step}": size for step, size in found.characters.items()}
    for step, scores in found.scores.items():
        row |= {f"{step}.{name}": value for name, value in scores.items()}
    if found.stop is not None:
        step, rejection = found.stop
        row |= {"stopped_by": step, "reason": rejection.reason}
        row |= {"score": rejection.score, "threshold": rejection.threshold}
    return row | signature


def read_scores(artifact: Artifact, unit: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Score rows of one part, in reading order."""
    data = pa.BufferReader(artifact.read_bytes(f"{SCORES}/{unit}.parquet"))
    return pq.read_table(data, columns=None if columns is None else list(columns))


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """Convert a column of fixed-length uint64 lists to uint64 [rows, length]."""
    length = column.type.list_size
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    flat = np.concatenate(chunks) if chunks else np.zeros(0, np.uint64)
    return flat.astype(np.uint64, copy=False).reshape(-1, length)
