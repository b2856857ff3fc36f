"""Parquet tables of an artifact, and the names of those that the passes of `clean` hand to each other."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.cluster.storage.artifact import SCRATCH, Artifact

TEXTS, DECISIONS = f"{SCRATCH}/texts", f"{SCRATCH}/decisions"


def read_table(artifact: Artifact, name: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(artifact.read_bytes(name)))


def write_table(artifact: Artifact, name: str, table: pa.Table) -> None:
    """The same rows give the same bytes, however the table is pieced together."""
    with artifact.create(name) as stream:
        pq.write_table(table.combine_chunks(), stream, compression="zstd")
