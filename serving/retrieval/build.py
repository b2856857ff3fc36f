"""Making an index: passages of each corpus file, then one table, one inverted index and one vector index."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.cluster.storage.artifact import SCRATCH, Artifact
from headwater.cluster.storage.filesystem import filesystem
from headwater.data_pipeline.corpus import read_documents
from headwater.llm.grounding.passages import passage_spans
from headwater.serving.retrieval.embed import Embedder, load_embedder
from headwater.serving.retrieval.passages import (
    DOCUMENTS,
    NUMBERS,
    TITLES,
    VECTORS,
    WORDS,
    approximate,
    best,
)
from headwater.serving.retrieval.words import Postings, terms

log = logging.getLogger("headwater")

PARTS = f"{SCRATCH}/parts"
READ_COLUMNS = ["id", "url", "title", "text", "language", "fetched_at"]
DOCUMENT_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "url", "title", "language", "date")])
RECALL = 0.95
"""Least recall@10 of an approximate vector index against the exact search."""
RECALL_QUERIES = 200
EFFORTS = ((20, 5), (40, 10), (80, 20), (160, 40))
"""(nprobes, refine_factor) of the vector index, tried in this order until RECALL is reached."""


class PassageMaker:
    """Splits and embeds the documents of one corpus file, and indexes their words."""

    def __init__(
        self, clean: Artifact, output: Artifact, embedding: str, passage_words: int, overlap_words: int
    ) -> None:
        self._clean, self._output = clean, output
        self._spans = (passage_words, overlap_words)
        self._embed = load_embedder(embedding)

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        part = f"{PARTS}/{unit['unit']}"
        documents: list[dict[str, str]] = []
        texts: list[list[int]] = []
        numbers: list[int] = []
        read = 0
        schema = _schema(self._embed.dimensions)
        with (
            self._output.create(f"{part}/passages.parquet") as stream,
            pq.ParquetWriter(stream, schema) as writer,
        ):
            for batch in read_documents(self._clean, READ_COLUMNS, files=[unit["file"]]):
                rows = []
                for document in batch.to_pylist():
                    own = list(self._rows(document))
                    rows += own
                    numbers += [len(documents)] * len(own)
                    documents += [_described(document)] * bool(own)
                read += batch.num_rows
                texts += [terms(row["text"]) for row in rows]
                writer.write_table(self._table(rows, schema))
        with self._output.create(f"{part}/{DOCUMENTS}") as stream:
            pq.write_table(pa.Table.from_pylist(documents, DOCUMENT_SCHEMA), stream)
        _save(self._output, f"{part}/{NUMBERS}", np.array(numbers, np.int32))
        Postings.of(texts).save(self._output, f"{part}/{WORDS}")
        Postings.of(terms(each["title"]) for each in documents).save(self._output, f"{part}/{TITLES}")
        return {"part": part, "documents": read, "passages": len(texts), "dimensions": self._embed.dimensions}

    def _rows(self, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
        text = document["text"] or ""
        for start, end in passage_spans(text, *self._spans):
            yield {
                "document_id": document["id"],
                "url": document["url"] or "",
                "title": document["title"] or "",
                "text": text[start:end],
                "start": start,
                "end": end,
            }

    def _table(self, rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
        vectors = self._embed([f"{row['title']}\n{row['text']}" for row in rows])
        columns = [
            pa.array([row[name] for row in rows], schema.field(name).type) for name in schema.names[:-1]
        ]
        columns.append(pa.FixedSizeListArray.from_arrays(vectors.ravel(), self._embed.dimensions))
        return pa.table(columns, schema=schema)


def _described(document: dict[str, Any]) -> dict[str, str]:
    return {
        "id": document["id"],
        "url": document["url"] or "",
        "title": document["title"] or "",
        "language": document["language"] or "",
        "date": document["fetched_at"] or "",
    }


def _schema(dimensions: int) -> pa.Schema:
    texts = [(name, pa.string()) for name in ("document_id", "url", "title", "text")]
    places = [("start", pa.int64()), ("end", pa.int64())]
    return pa.schema([*texts, *places, ("vector", pa.list_(pa.float32(), dimensions))])


def _save(artifact: Artifact, name: str, values: np.ndarray) -> None:
    with artifact.create(name) as stream:
        np.save(stream, values)


def join(output: Artifact, parts: Sequence[str], passages: int, dimensions: int) -> None:
    """Write `documents.parquet`, `words/` and `vectors.npy` of all parts."""
    tables = [pq.read_table(output.local_file(f"{part}/{DOCUMENTS}")) for part in parts]
    with output.create(DOCUMENTS) as stream:
        pq.write_table(pa.concat_tables(tables), stream)
    offsets = np.cumsum([0, *(len(table) for table in tables)])[:-1].astype(np.int32)
    numbers = [np.load(output.local_file(f"{part}/{NUMBERS}")) for part in parts]
    _save(output, NUMBERS, np.concatenate([n + o for n, o in zip(numbers, offsets, strict=True)]))
    for folder in (WORDS, TITLES):
        Postings.merged([Postings.load(output, f"{part}/{folder}") for part in parts]).save(output, folder)
    with output.create(VECTORS) as stream:
        header = {"descr": "<f2", "fortran_order": False, "shape": (passages, dimensions)}
        np.lib.format.write_array_header_1_0(stream, header)
        for batch in _batches(output, parts):
            stream.write(_vectors(batch).astype("<f2").tobytes())


def _batches(output: Artifact, parts: Iterable[str]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        fs, path = filesystem(output.path(f"{part}/passages.parquet"))
        with fs.open_input_file(path) as stream:
            yield from pq.ParquetFile(stream).iter_batches()


def _vectors(batch: pa.RecordBatch) -> np.ndarray:
    column = batch.column("vector")
    return np.asarray(column.flatten(), np.float32).reshape(len(column), -1)


def rows_of(output: Artifact, parts: Sequence[str], dimensions: int) -> pa.RecordBatchReader:
    """All passages in order, with their `number`."""
    schema = _schema(dimensions).append(pa.field("number", pa.int64()))

    def numbered() -> Iterator[pa.RecordBatch]:
        first = 0
        for batch in _batches(output, parts):
            number = pa.array(np.arange(first, first + len(batch)))
            yield pa.record_batch([*batch.columns, number], schema=schema)
            first += len(batch)

    return pa.RecordBatchReader.from_batches(schema, numbered())


def index_vectors(table: Any, vectors: np.ndarray, embed: Embedder) -> dict[str, Any] | None:
    """Build an approximate index of a table's vectors and measure its recall against the exact search.

    Returns the settings that reach RECALL, with the recall; None if none of EFFORTS does: then every search
    compares all vectors.
    """
    count = len(vectors)
    table.create_index(
        metric="cosine",
        vector_column_name="vector",
        index_type="IVF_PQ",
        num_partitions=max(1, round(count**0.5)),
        num_sub_vectors=max(1, vectors.shape[1] // 8),
    )
    queries = _recall_queries(table, count, embed)
    exact = [set(best(vectors @ query, 10).tolist()) for query in queries]
    near: dict[str, Any] = {}
    for nprobes, refine in EFFORTS:
        near = {"index": "IVF_PQ", "nprobes": nprobes, "refine_factor": refine}
        hits = [
            len(right & set(approximate(table, query, 10, near).tolist()))
            for query, right in zip(queries, exact, strict=True)
        ]
        near["recall_at_10"] = round(sum(hits) / (10 * len(queries)), 4)
        if near["recall_at_10"] >= RECALL:
            return near
    log.warning(
        "index: the vector index reaches a recall of %s only; every vector is compared", near["recall_at_10"]
    )
    return None


def _recall_queries(table: Any, count: int, embed: Embedder) -> np.ndarray:
    """The first words of evenly chosen passages, as questions that the index may be asked."""
    chosen = np.unique(np.linspace(0, count - 1, RECALL_QUERIES).astype(int)).tolist()
    texts = table.take_offsets(chosen).select(["text"]).to_arrow()["text"].to_pylist()
    return embed([" ".join(text.split()[:8]) for text in texts])
