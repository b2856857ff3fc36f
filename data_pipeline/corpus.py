"""Reads the kept documents of a finished `clean` artifact, always in the same order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.filesystem import filesystem

KEPT, REJECTED = "kept", "rejected"


def kept_files(artifact: Artifact) -> list[str]:
    """Names of the artifact's files of kept documents, in reading order."""
    return artifact.files(KEPT, ".parquet")


def read_documents(
    artifact: Artifact, columns: Sequence[str] | None = None, *, files: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Batches of kept documents (`documents.SCHEMA`), file by file in name order, rows as written.

    `files` selects some of `kept_files`, so that a unit of work reads only its share.
    """
    for name in kept_files(artifact) if files is None else files:
        fs, path = filesystem(artifact.path(name))
        try:
            with fs.open_input_file(path) as stream:
                yield from pq.ParquetFile(stream).iter_batches(
                    batch_size=256, columns=None if columns is None else list(columns)
                )
        except pa.ArrowInvalid as error:
            raise HeadwaterError(
                f"not a readable Parquet file ({error})",
                where=artifact.path(name),
                fix="delete this artifact and run again",
            ) from error


def iter_documents(artifact: Artifact, *, files: Sequence[str] | None = None) -> Iterator[dict[str, str]]:
    """Kept documents as dicts of id, url, title and text, in the order of `read_documents`."""
    for batch in read_documents(artifact, ["id", "url", "title", "text"], files=files):
        yield from batch.to_pylist()
