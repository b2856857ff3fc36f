"""Small corpora with known cleaning results."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.acquire import Acquire, AcquireConfig
from headwater.data_pipeline.clean.part_counts import PartCounts
from headwater.data_pipeline.clean.stage import (
    Clean,
    CleanConfig,
    MeasureWorker,
    WriteWorker,
    report,
    whole_funnel,
)
from headwater.data_pipeline.corpus import read_documents

VOCABULARY = """
river council bridge school market harbour teacher doctor festival garden window letter engine
summer winter mountain village family brother sister morning evening story music paper kitchen
station picture question answer company history weather journey island forest animal number person
reason moment language building opened closed visited painted measured praised repaired described
watched carried followed remembered offered quiet narrow bright ancient heavy gentle careful public
foreign simple modern famous early little green yellow slowly often already almost together quickly
never always perhaps somewhere
"""
WORDS = VOCABULARY.split()
LITTLE = ["the", "of", "and", "to", "that", "have", "with", "in", "for", "was"]


def iter_texts(artifact: Artifact) -> Iterator[str]:
    """The text of every kept document."""
    for batch in read_documents(artifact, ["text"]):
        yield from batch.column("text").to_pylist()


def article(seed: int, sentences: int = 12) -> str:
    """English words in sentences that pass the filters, different for each seed."""
    generator = random.Random(seed)
    made = []
    for _ in range(sentences):
        pairs = [(generator.choice(LITTLE), word) for word in generator.sample(WORDS, 7)]
        made.append(" ".join(itertools.chain.from_iterable(pairs)).capitalize() + ".")
    return " ".join(made)


def write_corpus(path: Path) -> None:
    """40 good articles (two of them HTML) and one of each kind that has to go."""
    page = "<html><head><title>A page</title></head><body><nav>Home</nav><article>{}</article></body></html>"
    rows = [
        {"text": article(n), "url": f"https://example.org/{n}", "title": f"Article {n}"} for n in range(38)
    ]
    for n in (38, 39):
        paragraphs = "".join(f"<p>{part}.</p>" for part in article(n).removesuffix(".").split(". "))
        rows.append({"html": page.format(paragraphs), "url": f"https://example.org/{n}"})
    rows[5]["text"] += " Write to editor@example-news.com for more about it."
    rows += [
        {"text": article(3).upper().lower(), "url": "u:copy"},
        {"text": article(4) + " This is one more sentence at the end of it.", "url": "u:near"},
        {"text": "Der Stadtrat hat am Dienstag für die neue Brücke gestimmt. " * 3, "url": "u:german"},
        {"text": article(50, 2), "url": "u:short"},
        {"text": "buy this now " * 80, "url": "u:spam"},
        {"html": "<html><body></body></html>", "url": "u:empty"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(session: Session, path: Path, per_part: int, config: CleanConfig | None = None) -> Artifact:
    settings = {"sources": [{"kind": "jsonl", "paths": [str(path)]}], "documents_per_part": per_part}
    acquired, _ = execute(Acquire(AcquireConfig.model_validate(settings)), {}, session)
    cleaned, _ = execute(Clean(config or CleanConfig()), {"acquire": acquired}, session)
    return cleaned


def run_here(session: Session, acquired: Artifact, config: CleanConfig, folder: Path) -> Artifact:
    """What the stage `clean` does, in this process: for tests of what it leaves, not of how it is spread."""
    output = Artifact(str(folder), "clean")
    units = [{"unit": Path(name).stem, "part": name} for name in acquired.files("documents", ".parquet")]
    measure = MeasureWorker(config, output, acquired)
    for unit in units:
        measure(unit)
    decisions = Clean(config)._decide([unit["unit"] for unit in units], output)
    documents = PartCounts(WriteWorker(output)(unit)["counts"] for unit in units)
    manifest = acquired.manifest()
    assert manifest is not None
    counts = whole_funnel(decisions, manifest.metrics["rejected"])
    report(counts, documents, decisions.replaced, output, session)
    return output


def contents(artifact: Artifact, folder: str) -> dict[str, bytes]:
    return {name: artifact.read_bytes(name) for name in artifact.files(folder, ".parquet")}


def rejected(artifact: Artifact) -> dict[str, dict[str, object]]:
    tables = [pq.read_table(pa.BufferReader(data)) for data in contents(artifact, "rejected").values()]
    return {row["url"]: row for row in pa.concat_tables(tables).to_pylist()}
