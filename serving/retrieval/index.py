"""The stage `index`: passages of the cleaned documents in LanceDB, for vector and full-text search.

`lancedb/passages` has one row per passage: text, position in the document, the document's id, URL and title,
and the embedding of title and text. Title and text have BM25 indexes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import Field, model_validator

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.needs import Moments, pool
from headwater.cluster.runtime.parallel import map_units
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import NonEmpty, Stage, StageConfig
from headwater.cluster.storage.artifact import SCRATCH, Artifact
from headwater.cluster.storage.filesystem import filesystem
from headwater.data_pipeline.corpus import kept_files, read_documents
from headwater.data_pipeline.split import document_fraction
from headwater.llm.examples.conversations import clean_title, question_about
from headwater.llm.grounding.passages import passage_spans
from headwater.serving.retrieval.embed import WORDLLAMA, load_embedder
from headwater.serving.retrieval.search import DESCRIPTION, FOLDER, TABLE, PassageIndex, connect

PARTS = f"{SCRATCH}/parts"


class IndexConfig(StageConfig):
    """Settings of the stage `index`: how documents are split and embedded."""

    passage_words: int = Field(80, ge=10, le=2000)
    """Words per passage. Shorter passages are more precise, longer ones give more context."""
    overlap_words: int = Field(20, ge=0)
    """Maximum overlap of neighbouring passages in words; only whole sentences are shared."""
    embedding: NonEmpty = WORDLLAMA
    """Embedding model: `wordllama` (bundled, fast on CPUs) or the folder of a transformers encoder."""
    questions: int = Field(100, ge=0)
    """Number of documents whose headlines are searched to measure the quality of the index; 0 skips it."""

    @model_validator(mode="after")
    def _passages_move_on(self) -> IndexConfig:
        if self.overlap_words >= self.passage_words:
            raise ValueError(
                f"`overlap_words` ({self.overlap_words}) must be less than `passage_words` "
                f"({self.passage_words})"
            )
        return self


class Index(Stage[IndexConfig]):
    """Cleaned documents → `lancedb/` and `index.json`."""

    name = "index"
    inputs = ("clean",)

    def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
        return [pool()]

    def files(self) -> Iterable[tuple[str, str]]:
        return () if self.config.embedding == WORDLLAMA else (("embedding", self.config.embedding),)

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        started = time.monotonic()
        clean = inputs["clean"]
        units = [{"unit": f"{i:05d}", "file": name} for i, name in enumerate(kept_files(clean))]
        results = map_units(
            session,
            output,
            "index",
            units,
            PassageMaker,
            worker_args={"clean": clean, "output": output, "config": self.config},
        )
        passages = sum(result["passages"] for result in results)
        if passages == 0:
            raise HeadwaterError(
                "the cleaned documents have no text to index",
                where=clean.location,
                fix="loosen the filters of the stage `clean`",
            )
        embedded = time.monotonic()
        with output.create_folder(FOLDER) as folder:
            _build(str(folder), output, [result["part"] for result in results], results[0]["dimensions"])
        description = {"embedding": self.config.embedding, "passages": passages}
        output.write_json(DESCRIPTION, description)
        return {
            "documents": sum(result["documents"] for result in results),
            "passages": passages,
            "embed_seconds": round(embedded - started, 2),
            "build_seconds": round(time.monotonic() - embedded, 2),
            **measure(PassageIndex(output.location), clean, self.config.questions),
        }


class PassageMaker:
    """Splits and embeds the documents of one corpus file."""

    def __init__(self, clean: Artifact, output: Artifact, config: IndexConfig) -> None:
        self._clean, self._output, self._config = clean, output, config
        self._embed = load_embedder(config.embedding)

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        import pyarrow.parquet as pq

        part = f"{PARTS}/{unit['unit']}.parquet"
        schema = _schema(self._embed.dimensions)
        documents = passages = 0
        with self._output.create(part) as stream, pq.ParquetWriter(stream, schema) as writer:
            for batch in read_documents(self._clean, ["id", "url", "title", "text"], files=[unit["file"]]):
                rows = [row for document in batch.to_pylist() for row in self._rows(document)]
                documents += batch.num_rows
                passages += len(rows)
                writer.write_table(self._table(rows))
        dimensions = self._embed.dimensions
        return {"documents": documents, "passages": passages, "part": part, "dimensions": dimensions}

    def _rows(self, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
        text = document["text"] or ""
        spans = passage_spans(text, self._config.passage_words, self._config.overlap_words)
        for number, (start, end) in enumerate(spans):
            yield {
                "id": f"{document['id']}#{number:05d}",
                "document_id": document["id"],
                "url": document["url"] or "",
                "title": document["title"] or "",
                "text": text[start:end],
                "start": start,
                "end": end,
            }

    def _table(self, rows: list[dict[str, Any]]) -> Any:
        import pyarrow as pa

        schema = _schema(self._embed.dimensions)
        vectors = self._embed([f"{row['title']}\n{row['text']}" for row in rows])
        columns = [
            pa.array([row[name] for row in rows], schema.field(name).type) for name in schema.names[:-1]
        ]
        columns.append(pa.FixedSizeListArray.from_arrays(vectors.ravel(), self._embed.dimensions))
        return pa.table(columns, schema=schema)


def _schema(dimensions: int) -> Any:
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("id", "document_id", "url", "title", "text")]
    places = [("start", pa.int64()), ("end", pa.int64())]
    return pa.schema([*texts, *places, ("vector", pa.list_(pa.float32(), dimensions))])


def _build(folder: str, output: Artifact, parts: list[str], dimensions: int) -> None:
    """Write the table and its word indexes into a local folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def batches() -> Iterator[pa.RecordBatch]:
        for part in parts:
            fs, path = filesystem(output.path(part))
            with fs.open_input_file(path) as stream:
                yield from pq.ParquetFile(stream).iter_batches()

    rows = pa.RecordBatchReader.from_batches(_schema(dimensions), batches())
    table = connect(folder).create_table(TABLE, rows)
    for column in ("title", "text"):
        # LanceDB's defaults: English stemming and stop words, lower case, accents folded.
        table.create_fts_index(column)


def measure(index: PassageIndex, clean: Artifact, questions: int) -> dict[str, Any]:
    """Search the headlines of documents sampled by hash; measure how often the article is found first.

    A duplicate with the same URL counts as the article.
    """
    documents = [
        (document_fraction(row["id"]), row["id"], row["url"], title)
        for batch in read_documents(clean, ["id", "url", "title"])
        for row in batch.to_pylist()
        if (title := clean_title(row["title"] or "", row["url"] or ""))
    ]
    chosen = sorted(documents)[:questions]
    started = time.monotonic()
    right = 0
    for _, identifier, url, title in chosen:
        found = index.search(question_about(title), limit=1)
        right += bool(found) and (found[0].document_id == identifier or (url != "" and found[0].url == url))
    if not chosen:
        return {}
    return {
        "questions": len(chosen),
        "first_passage_is_its_article": round(right / len(chosen), 4),
        "milliseconds_per_search": round(1000 * (time.monotonic() - started) / len(chosen), 1),
    }
