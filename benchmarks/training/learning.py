"""Time of the pretrain stage to reach a target loss on held-out books.

    python -m benchmarks.training.learning BOOKS.parquet [--set pretrain.steps=400 …] [--store DIR]

The books are cut into documents of 4,000 characters, about 500 of them for validation. Vocabulary 4,096,
rows of 512 tokens, 4 layers of width 256. Earlier stages run once per store and are not timed. The time
includes the whole stage: start of Ray Train's workers, DeepSpeed, all steps, validation, model export.
nanochat reached 1.776 bits per byte in 15.8 minutes on such a machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

CHARACTERS = 4000
HELD_OUT = 500
GOAL, MINUTES = 1.776, 5.0

PRETRAIN: dict[str, Any] = {
    "model": {"tie_embeddings": False, "zero_outputs": True, "rope_theta": 100.0},
    "steps": 324,
    "batch": 8,
    "micro_batch": 4,
    "workers": 2,
    "zero": {"stage": 1},
    "optimizer": "muon",
    "learning_rate": 6.0e-3,
    "embedding_learning_rate": 0.1,
    "muon_learning_rate": 0.02,
    "muon_momentum": 0.85,
    "betas": [0.9, 0.99],
    "warmup_share": 0.02,
    "decay_share": 0.6,
    "final_share": 0.0,
    "evaluate_every": 100_000,
    "checkpoint_every": 200,
}


def cut(books: Path, output: Path) -> int:
    """Write the documents as JSONL and return their number."""
    count = 0
    with output.open("w") as stream:
        for book in pq.read_table(books).to_pylist():
            for start in range(0, len(book["text"]) - CHARACTERS + 1, CHARACTERS):
                text = book["text"][start : start + CHARACTERS]
                stream.write(json.dumps({"text": text, "title": book["title"], "id": f"book-{count}"}) + "\n")
                count += 1
    return count


def recipe(store: Path, documents: Path, count: int) -> dict[str, Any]:
    from headwater.data_pipeline.clean.stage import CleanConfig

    return {
        "name": "learning",
        "store": str(store / "store"),
        "depth": 4,
        "acquire": {"sources": [{"kind": "jsonl", "paths": [str(documents)], "columns": {"id": "id"}}]},
        "clean": {name: {"enabled": False} for name in CleanConfig().names() if name != "extract"},
        "tokenizer": {"vocab_size": 4096},
        "tokenize": {"row_length": 512, "validation_share": HELD_OUT / count},
        "pretrain": PRETRAIN,
    }


def headwater(path: Path, until: str, overrides: list[str]) -> None:
    settings = [f"--set={override}" for override in overrides]
    subprocess.run(
        [sys.executable, "-m", "headwater", "run", str(path), "--until", until, *settings], check=True
    )


def prepared(store: Path, books: Path) -> Path:
    """The recipe's path, after the stages before pretraining have run in `store`."""
    store.mkdir(parents=True, exist_ok=True)
    documents = store / "documents.jsonl"
    count = len(documents.read_text().splitlines()) if documents.exists() else cut(books, documents)
    path = store / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(store, documents, count)))
    headwater(path, "tokenize", [])
    return path


def manifest(store: Path) -> dict[str, Any]:
    newest = max((store / "store").glob("pretrain/*/manifest.json"), key=lambda path: path.stat().st_mtime)
    return dict(json.loads(newest.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("books", type=Path)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as for headwater run"
    )
    parser.add_argument("--store", type=Path, help="folder to keep and reuse artifacts")
    options = parser.parse_args()
    store = options.store or Path(tempfile.mkdtemp(prefix="learning-"))
    path = prepared(store, options.books)
    started = time.monotonic()
    headwater(path, "pretrain", options.set)
    minutes = (time.monotonic() - started) / 60
    made = manifest(store)
    metrics, stage = made["metrics"], made["seconds"] / 60
    tokens = made["config"]["steps"] * made["config"]["batch"] * 512
    print(
        f"{metrics['bits_per_byte']:.4f} bits per byte (goal {GOAL}) after {stage:.2f} minutes of the stage "
        f"(goal {MINUTES:g}), {minutes:.2f} with the command's start; {tokens / 1e6:.2f} M tokens, "
        f"{metrics['median_tokens_per_second']:,.0f} tokens/s in a median step"
    )
    raise SystemExit(metrics["bits_per_byte"] > GOAL or stage > MINUTES)


if __name__ == "__main__":
    main()
