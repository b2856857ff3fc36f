"""Parquet tables of an artifact, and the names of the tables passed between the passes of `clean`."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.cluster.storage.artifact import SCRATCH, Artifact
from headwater.cluster.storage.filesystem import filesystem

TEXTS, DECISIONS = f"{SCRATCH}/texts", f"{SCRATCH}/decisions"


def read_table(artifact: Artifact, name: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(artifact.read_bytes(name)))


def read_columns(artifact: Artifact, name: str, columns: Sequence[str]) -> pa.Table:
    """Some columns of a table, without reading the others."""
    fs, path = filesystem(artifact.path(name))
    return pq.read_table(path, columns=list(columns), filesystem=fs)


def write_table(artifact: Artifact, name: str, table: pa.Table) -> None:
    """Write a table. Equal rows give equal bytes, whatever the chunking."""
    with artifact.create(name) as stream:
        pq.write_table(table.combine_chunks(), stream, compression="zstd")
