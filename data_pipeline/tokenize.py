"""The stage `tokenize`: cleaned documents → packed rows of token ids in memory-mapped shards.

One part of the cleaned corpus is one unit of work and becomes one shard for each split it has
documents of. Which split a document is in is decided by its id alone, so a corpus that grows
keeps its validation documents.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow.compute as pc
from pydantic import Field

from cluster.artifact import SCRATCH, Artifact
from cluster.errors import HeadwaterError
from cluster.parallel import map_units
from cluster.session import Session
from cluster.stage import Stage, StageConfig
from data_pipeline.chat_template import DOCUMENT_END, PADDING
from data_pipeline.corpus import kept_files, read_documents
from data_pipeline.encoder import Encoder
from data_pipeline.packing import Packing, pack
from data_pipeline.shards import (
    INDEX,
    SPLITS,
    Split,
    TokenRows,
    unigram_bits_per_byte,
    write_shard,
)
from data_pipeline.split import document_fraction
from data_pipeline.tokenizer import FOLDER

COUNTS = f"{SCRATCH}/counts"
TRAIN_COUNTS = "train-counts.npy"
"""int64 [vocab_size]: how often each id is a target in the training rows."""


class TokenizeConfig(StageConfig):
    """The shape of the rows, how documents fill them, and which documents validate."""

    row_length: int = Field(default=512, ge=2)
    """Tokens a row gives as inputs, and as targets: the model's context in pretraining."""
    packing: Packing = "concatenate"
    """`concatenate` pads next to nothing but cuts documents wherever a row is full; `best_fit` cuts only
    those that are longer than a row, and pads what no document fits into."""
    validation_share: float = Field(default=0.02, gt=0, lt=1)
    """Share of the documents, chosen by the hash of their id, that pretraining only measures on."""


class Tokenize(Stage[TokenizeConfig]):
    """Cleaned documents and a tokenizer → `train/*.arrow`, `validation/*.arrow`, `rows.json`."""

    name = "tokenize"
    inputs = ("clean", "tokenizer")

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        corpus, tokenizer = inputs["clean"], inputs["tokenizer"]
        parts = kept_files(corpus)
        units = [{"unit": PurePosixPath(name).stem, "file": name} for name in parts]
        results = map_units(
            session,
            output,
            "tokenize",
            units,
            PartEncoder,
            worker_args={
                "corpus": corpus,
                "tokenizer": tokenizer,
                "output": output,
                "config": self.config,
            },
            unit_name="parts",
        )
        splits = {split: _summary(split, results) for split in SPLITS}
        for split, summary in splits.items():
            if not summary["documents"]:
                raise HeadwaterError(
                    f"none of the corpus's documents falls into the {split} split",
                    where=corpus.location,
                    fix="read more documents, or set another `tokenize.validation_share`",
                )
        encoder = Encoder(tokenizer.local(FOLDER))
        counts = sum(_read_array(output, f"{COUNTS}/{unit['unit']}.npy") for unit in units)
        _write_array(output, TRAIN_COUNTS, np.asarray(counts))
        index = {
            "row_length": self.config.row_length,
            "vocab_size": encoder.vocab_size,
            "pad_id": encoder.special_id(PADDING),
            "end_id": encoder.special_id(DOCUMENT_END),
            "splits": splits,
        }
        output.write_json(INDEX, index)
        return _metrics(index, unigram_bits_per_byte(np.asarray(counts), TokenRows(output, "validation")))


class PartEncoder:
    """Encodes one part of the corpus and writes its shards; a tokenizer is opened once per actor."""

    def __init__(
        self,
        corpus: Artifact,
        tokenizer: Artifact,
        output: Artifact,
        config: TokenizeConfig,
    ) -> None:
        self.corpus, self.output, self.config = corpus, output, config
        self.encoder = Encoder(tokenizer.local(FOLDER))

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        texts: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        documents: dict[Split, list[tuple[str, np.ndarray]]] = {split: [] for split in SPLITS}
        for batch in read_documents(self.corpus, ["id", "text"], files=[unit["file"]]):
            identifiers = batch.column("id").to_pylist()
            sizes = pc.binary_length(batch.column("text")).to_pylist()
            encoded = self.encoder.encode(batch.column("text").to_pylist())
            for identifier, size, ids in zip(identifiers, sizes, encoded, strict=True):
                split = split_of_pretraining(identifier, self.config.validation_share)
                documents[split].append((identifier, ids))
                texts[split] += size
        return {
            split: {"bytes": texts[split], **self._write(split, unit["unit"], documents[split])}
            for split in SPLITS
        }

    def _write(self, split: Split, part: str, documents: Sequence[tuple[str, np.ndarray]]) -> dict[str, Any]:
        packed = pack(
            documents,
            self.config.row_length,
            end_id=self.encoder.special_id(DOCUMENT_END),
            pad_id=self.encoder.special_id(PADDING),
            vocab_size=self.encoder.vocab_size,
            packing=self.config.packing,
        )
        if split == "train":
            counts = np.bincount(packed.ids[:, 1:].reshape(-1), minlength=self.encoder.vocab_size)
            counts[self.encoder.special_id(PADDING)] = 0
            _write_array(self.output, f"{COUNTS}/{part}.npy", counts)
        name = f"{part}.arrow"
        if len(packed.ids):
            with self.output.create(f"{split}/{name}") as stream:
                write_shard(stream, packed)
        return {
            "name": name,
            "rows": len(packed.ids),
            "documents": len(documents),
            "tokens": len(packed.ids) * self.config.row_length - packed.padding,
            "padding": packed.padding,
        }


def split_of_pretraining(document_id: str, validation_share: float) -> Split:
    return "validation" if document_fraction(document_id) < validation_share else "train"


def _summary(split: Split, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One split's totals and the list of its shards."""
    parts = [result[split] for result in results]
    totals = {
        name: sum(part[name] for part in parts)
        for name in ("documents", "tokens", "bytes", "rows", "padding")
    }
    shards = [{"name": part["name"], "rows": part["rows"]} for part in parts if part["rows"]]
    return {**totals, "shards": shards}


def _metrics(index: Mapping[str, Any], unigram: float) -> dict[str, Any]:
    metrics: dict[str, Any] = {"vocab_size": index["vocab_size"], "row_length": index["row_length"]}
    for split, summary in index["splits"].items():
        metrics |= {f"{split}_{name}": value for name, value in summary.items() if name != "shards"}
        positions = summary["rows"] * index["row_length"]
        metrics[f"{split}_padded_share"] = round(summary["padding"] / max(1, positions), 6)
    text = sum(summary["bytes"] for summary in index["splits"].values())
    tokens = sum(summary["tokens"] for summary in index["splits"].values())
    return metrics | {"bytes_per_token": round(text / tokens, 4), "unigram_bits_per_byte": round(unigram, 4)}


def _write_array(output: Artifact, name: str, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    output.write_bytes(name, buffer.getvalue())


def _read_array(output: Artifact, name: str) -> np.ndarray:
    return np.load(io.BytesIO(output.read_bytes(name)))
