"""The stage `tokenize`: cleaned documents → packed rows of token ids in memory-mapped shards.

Each part of the cleaned corpus is a unit of work and becomes one shard per split (and corpus, if corpora are
named) of its documents. A document's split depends only on its id, so a growing corpus keeps its validation
documents.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow.compute as pc
from pydantic import Field, field_validator

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.needs import Moments, pool
from headwater.cluster.runtime.parallel import map_units
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Stage, StageConfig
from headwater.cluster.storage.artifact import SCRATCH, Artifact, Folder
from headwater.data_pipeline.corpus import kept_files, read_documents
from headwater.data_pipeline.split import document_fraction
from headwater.data_pipeline.tokens.corpora import Corpus, Sorter
from headwater.data_pipeline.tokens.encoder import Encoder
from headwater.data_pipeline.tokens.packing import Packing, pack
from headwater.data_pipeline.tokens.shards import (
    INDEX,
    SPLITS,
    Split,
    unigram_bits_per_byte,
    write_shard,
)
from headwater.data_pipeline.tokens.tokenizer import TOKENIZER, tokenizer_of

COUNTS = f"{SCRATCH}/counts"
"""Of each part: int64 [splits, vocab_size], number of times each id is a scored target."""
TRAIN_COUNTS = "train-counts.npy"
"""int64 [vocab_size]: number of times each id is a target in the training rows."""
UNNAMED = ""
"""Name of the corpus of all documents if the recipe names no corpora."""


class TokenizeConfig(StageConfig):
    """Settings of the stage `tokenize`."""

    row_length: int = Field(default=512, ge=2)
    """Input tokens per row, which is the context length of pretraining."""
    packing: Packing = "concatenate"
    """`concatenate` pads almost nothing but cuts documents where a row is full. `best_fit` cuts only
    documents longer than a row, and pads the rest."""
    corpora: tuple[Corpus, ...] = ()
    """Named subsets of the documents by source file; the first match decides. Their rows are kept apart, so
    that `pretrain.mixture` can weight them."""
    validation_share: float = Field(default=0.02, gt=0, lt=1)
    """Fraction of the documents held out for validation in pretraining, selected by the hash of their id."""

    @field_validator("corpora")
    @classmethod
    def _names_differ(cls, corpora: tuple[Corpus, ...]) -> tuple[Corpus, ...]:
        names = [corpus.name for corpus in corpora]
        if len(set(names)) < len(names):
            raise ValueError(f"corpus names must be unique: {', '.join(names)}")
        return corpora


class Tokenize(Stage[TokenizeConfig]):
    """Cleaned documents and a tokenizer → `train/`, `validation/` (Arrow files), `rows.json`."""

    name = "tokenize"
    version = 2
    inputs = ("clean", TOKENIZER)

    def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
        return [pool()]

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        corpus, tokenizer = inputs["clean"], tokenizer_of(inputs)
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
        names = [corpus.name for corpus in self.config.corpora]
        shards = [shard for result in results for shard in result["shards"]]
        splits = {split: _summary(split, shards, names) for split in SPLITS}
        self._check(splits, corpus)
        encoder = Encoder(tokenizer.local())
        counts = np.asarray(sum(_read_array(output, f"{COUNTS}/{unit['unit']}.npy") for unit in units))
        train, validation = counts  # in the order of SPLITS
        _write_array(output, TRAIN_COUNTS, train)
        unigram = unigram_bits_per_byte(train, validation, splits["validation"]["bytes"])
        index = {
            "row_length": self.config.row_length,
            "vocab_size": encoder.vocab_size,
            "pad_id": encoder.pad_id,
            "end_id": encoder.end_id,
            "splits": splits,
        }
        output.write_json(INDEX, index)
        return _metrics(index, unigram)

    def _check(self, splits: Mapping[Split, Mapping[str, Any]], corpus: Artifact) -> None:
        for split, summary in splits.items():
            if not summary["documents"]:
                raise HeadwaterError(
                    f"no document is in the {split} split",
                    where=corpus.location,
                    fix="read more documents, or change `tokenize.validation_share`",
                )
        for name, counts in splits["train"].get("corpora", {}).items():
            if not counts["documents"]:
                raise HeadwaterError(
                    f"no document is in the corpus {name}",
                    where=corpus.location,
                    fix="correct its `sources` in `tokenize.corpora`; a document is in the first match",
                )


@dataclass
class Group:
    """Documents of one split and corpus, which are packed together."""

    documents: list[tuple[str, np.ndarray]]
    bytes: int
    """UTF-8 bytes of their text."""


class PartEncoder:
    """Encodes one part of the corpus and writes its shards. Opens the tokenizer once per actor."""

    def __init__(
        self,
        corpus: Artifact,
        tokenizer: Folder,
        output: Artifact,
        config: TokenizeConfig,
    ) -> None:
        self.source, self.output, self.config = corpus, output, config
        self.corpora = [corpus.name for corpus in config.corpora] or [UNNAMED]
        self.sorter = Sorter(config.corpora)
        self.encoder = Encoder(tokenizer.local())

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        groups = self._read(unit["file"])
        counts = np.zeros((len(SPLITS), self.encoder.vocab_size), np.int64)
        shards = []
        for split, own in zip(SPLITS, counts, strict=True):
            for corpus in self.corpora:
                group = groups.get((split, corpus), Group([], 0))
                shards.append(self._write(split, corpus, unit["unit"], group, own))
        _write_array(self.output, f"{COUNTS}/{unit['unit']}.npy", counts)
        return {"shards": shards}

    def _read(self, file: str) -> dict[tuple[Split, str], Group]:
        """Encoded documents of a part, by split and corpus."""
        groups: dict[tuple[Split, str], Group] = {}
        for batch in read_documents(self.source, ["id", "text", "source"], files=[file]):
            encoded = self.encoder.encode(batch.column("text").to_pylist())
            sizes = pc.binary_length(batch.column("text")).to_pylist()
            names, sources = (batch.column(name).to_pylist() for name in ("id", "source"))
            for name, source, size, ids in zip(names, sources, sizes, encoded, strict=True):
                split = split_of_pretraining(name, self.config.validation_share)
                corpus = self.sorter.corpus(source) if self.config.corpora else UNNAMED
                group = groups.setdefault((split, corpus), Group([], 0))
                group.documents.append((name, ids))
                group.bytes += size
        return groups

    def _write(
        self, split: Split, corpus: str, part: str, group: Group, counts: np.ndarray
    ) -> dict[str, Any]:
        """Write one shard, unless it is empty, and return its totals. Adds its targets to `counts`."""
        pad_id, length = self.encoder.pad_id, self.config.row_length
        packed = pack(
            group.documents,
            length,
            end_id=self.encoder.end_id,
            pad_id=pad_id,
            vocab_size=self.encoder.vocab_size,
            packing=self.config.packing,
        )
        counts += np.bincount(packed.ids[:, 1:].reshape(-1), minlength=len(counts))
        counts[pad_id] = 0
        name = f"{corpus}/{part}.arrow".lstrip("/")
        if len(packed.ids):
            with self.output.create(f"{split}/{name}") as stream:
                write_shard(stream, packed)
        return {
            "split": split,
            "corpus": corpus,
            "name": name,
            "rows": len(packed.ids),
            "documents": len(group.documents),
            "bytes": group.bytes,
            "tokens": len(packed.ids) * length - packed.padding,
            "padding": packed.padding,
        }


def split_of_pretraining(document_id: str, validation_share: float) -> Split:
    """Split of a document, which depends only on its id."""
    return "validation" if document_fraction(document_id) < validation_share else "train"


def _summary(split: Split, shards: Sequence[Mapping[str, Any]], corpora: Sequence[str]) -> dict[str, Any]:
    """Totals of one split and the list of its shards, by corpus."""
    here = [shard for shard in shards if shard["split"] == split]
    if not corpora:
        listed = [{"name": shard["name"], "rows": shard["rows"]} for shard in here if shard["rows"]]
        return {**_totals(here), "shards": listed}
    by_corpus = {name: [shard for shard in here if shard["corpus"] == name] for name in corpora}
    listed = [
        {"name": shard["name"], "rows": shard["rows"], "corpus": name}
        for name, members in by_corpus.items()
        for shard in members
        if shard["rows"]
    ]
    totals = {name: _totals(members) for name, members in by_corpus.items()}
    return {**_totals(here), "corpora": totals, "shards": listed}


def _totals(shards: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    names = ("documents", "tokens", "bytes", "rows", "padding")
    return {name: sum(shard[name] for shard in shards) for name in names}


def _metrics(index: Mapping[str, Any], unigram: float) -> dict[str, Any]:
    metrics: dict[str, Any] = {"vocab_size": index["vocab_size"], "row_length": index["row_length"]}
    for split, summary in index["splits"].items():
        metrics |= {f"{split}_{name}": value for name, value in summary.items() if isinstance(value, int)}
        for corpus, counts in summary.get("corpora", {}).items():
            metrics[f"{split}_tokens_{corpus}"] = counts["tokens"]
        positions = summary["rows"] * index["row_length"]
        metrics[f"{split}_padded_share"] = round(summary["padding"] / max(1, positions), 6)
    text = sum(summary["bytes"] for summary in index["splits"].values())
    tokens = sum(summary["tokens"] for summary in index["splits"].values())
    return metrics | {"bytes_per_token": round(text / tokens, 4), "unigram_bits_per_byte": round(unigram, 6)}


def _write_array(output: Artifact, name: str, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    output.write_bytes(name, buffer.getvalue())


def _read_array(output: Artifact, name: str) -> np.ndarray:
    return np.load(io.BytesIO(output.read_bytes(name)))
