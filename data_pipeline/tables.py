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
    """Some columns of a table, without reading the others. One that an earlier version did not write is
    filled with empty strings."""
    fs, path = filesystem(artifact.path(name))
    there = pq.read_schema(path, filesystem=fs).names
    table = pq.read_table(path, columns=[each for each in columns if each in there], filesystem=fs)
    for missing in (each for each in columns if each not in there):
        table = table.append_column(missing, pa.array([""] * table.num_rows, pa.string()))
    return table


def write_table(artifact: Artifact, name: str, table: pa.Table) -> None:
    """Write a table. Equal rows give equal bytes, whatever the chunking."""
    with artifact.create(name) as stream:
        pq.write_table(table.combine_chunks(), stream, compression="zstd")
