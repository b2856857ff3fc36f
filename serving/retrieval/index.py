"""The stage `index`: passages of the cleaned documents, for vector and full-text search.

`lancedb/passages` has one row per passage: text, position in the document, the document's id, URL and title,
and the embedding of title and text. `documents.parquet` has one row per document, `words/` the inverted
indexes of passages and titles, `vectors.npy` the embeddings as float16; all in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.needs import Moments, pool
from headwater.cluster.runtime.parallel import map_units
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import NonEmpty, Stage, StageConfig
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.corpus import kept_files, read_documents
from headwater.data_pipeline.split import document_fraction
from headwater.llm.examples.conversations import clean_title, question_about
from headwater.serving.retrieval.build import PassageMaker, index_vectors, join, rows_of
from headwater.serving.retrieval.embed import WORDLLAMA, load_embedder
from headwater.serving.retrieval.passages import VECTORS
from headwater.serving.retrieval.search import DESCRIPTION, FOLDER, TABLE, PassageIndex, connect


class IndexConfig(StageConfig):
    """Settings of the stage `index`: how documents are split and embedded."""

    passage_words: int = Field(80, ge=10, le=2000)
    """Words per passage. Shorter passages are more precise, longer ones give more context."""
    overlap_words: int = Field(20, ge=0)
    """Maximum overlap of neighbouring passages in words; only whole sentences are shared."""
    embedding: NonEmpty = WORDLLAMA
    """Embedding model: `wordllama` (bundled, fast on CPUs) or the folder of a transformers encoder."""
    exact_passages: int = Field(100_000, ge=0)
    """Up to so many passages every vector is compared. Above, an approximate vector index is built. Its
    recall of the ten nearest is measured and written into the manifest; below 0.95 it is not used."""
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
    """Cleaned documents → `lancedb/`, `words/`, `vectors.npy`, `documents.parquet` and `index.json`."""

    name = "index"
    version = 2
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
            worker_args={
                "clean": clean,
                "output": output,
                "embedding": self.config.embedding,
                "passage_words": self.config.passage_words,
                "overlap_words": self.config.overlap_words,
            },
        )
        passages = sum(result["passages"] for result in results)
        if passages == 0:
            raise HeadwaterError(
                "the cleaned documents have no text to index",
                where=clean.location,
                fix="loosen the filters of the stage `clean`",
            )
        embedded = time.monotonic()
        parts, dimensions = [result["part"] for result in results], results[0]["dimensions"]
        join(output, parts, passages, dimensions)
        near = None
        with output.create_folder(FOLDER) as folder:
            table = connect(str(folder)).create_table(TABLE, rows_of(output, parts, dimensions))
            if passages > self.config.exact_passages:
                vectors = np.load(output.local_file(VECTORS), mmap_mode="r")
                near = index_vectors(
                    table, np.asarray(vectors, np.float32), load_embedder(self.config.embedding)
                )
        description = {
            "embedding": self.config.embedding,
            "passages": passages,
            "passage_words": self.config.passage_words,
            "overlap_words": self.config.overlap_words,
            "near": near,
        }
        output.write_json(DESCRIPTION, description)
        return {
            "documents": sum(result["documents"] for result in results),
            "passages": passages,
            "embed_seconds": round(embedded - started, 2),
            "build_seconds": round(time.monotonic() - embedded, 2),
            **({f"vectors_{name}": value for name, value in near.items()} if near else {}),
            **measure(PassageIndex(output.location), clean, self.config.questions),
        }


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
