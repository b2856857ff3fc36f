"""Parquet tables of an artifact, and the names of the tables passed between the passes of `clean`."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.cluster.storage.artifact import SCRATCH, Artifact

TEXTS, DECISIONS = f"{SCRATCH}/texts", f"{SCRATCH}/decisions"


def read_table(artifact: Artifact, name: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(artifact.read_bytes(name)))


def write_table(artifact: Artifact, name: str, table: pa.Table) -> None:
    """Write a table. Equal rows give equal bytes, whatever the chunking."""
    with artifact.create(name) as stream:
        pq.write_table(table.combine_chunks(), stream, compression="zstd")
