"""Does a shuffle within windows of shards cost quality? Bits per byte of a small model for each width.

    python -m benchmarks.training.windows FILE [--shards 96] [--rows 40] [--widths 96 24 6]
        [--seeds 0 1 2] [--orders 2]

FILE is Parquet or JSONL with long documents, such as books. Each of the first 96 is cut into equally many
pieces, each a shard of its own; with 96 shards these are whole books, which differ as much as shards can.
One epoch: with every width a model reads the same rows, in another order. Settings are those of
`benchmarks.training.learning`, in the training loop's own steps, at depth 2 with rows of 128 tokens.

Runs of one seed start from the same weights, and are paired by seed and order. Prints how far two orders of
the full shuffle are apart, and each width's mean difference from it.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus.encoding import LEARNT_FROM, read
from benchmarks.training.frontier import learnt
from benchmarks.training.learning import PRETRAIN
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.tokens.encoder import Encoder
from headwater.data_pipeline.tokens.packing import pack
from headwater.data_pipeline.tokens.shards import write_shard
from headwater.data_pipeline.tokens.tokenizer import save_tokenizer, train, wrap
from headwater.llm.stages.pretrain import PretrainConfig

LENGTH, BATCH, BOOKS, HELD_OUT = 128, 16, 96, 16
"""Tokens of a row, rows of a step, documents, and held-out rows of each: those after its shards."""
VOCABULARY = 2_048


def write_tokens(file: Path, column: str, shards: int, rows: int, output: Artifact) -> None:
    """Write the shards as the stage `tokenize` does, and the held-out rows as one."""
    needed = (shards // BOOKS * rows + HELD_OUT) * LENGTH
    texts = [text[: 5 * needed] for text in read(file, column) if len(text) >= 5 * needed][:BOOKS]
    if len(texts) < BOOKS:
        raise SystemExit(f"{file} has only {len(texts)} of {BOOKS} documents of {5 * needed} characters")
    with tempfile.TemporaryDirectory() as folder:
        learnt_from = "".join(text[: LEARNT_FROM // BOOKS] for text in texts)
        save_tokenizer(wrap(train(learnt_from.splitlines(keepends=True), VOCABULARY, 2)), folder)
        encoder = Encoder(folder)
        encoded = encoder.encode(texts)
    special = {"end_id": encoder.end_id, "pad_id": encoder.pad_id, "vocab_size": VOCABULARY}
    size = sum(len(text.encode()) for text in texts) / sum(map(len, encoded))
    splits: dict[str, Any] = {}
    for split, length, first, pieces in (
        ("train", rows, 0, shards // BOOKS),
        ("validation", HELD_OUT, shards // BOOKS * rows, 1),
    ):
        listed = []
        for (book, ids), piece in product(enumerate(encoded), range(pieces)):
            start = (first + piece * length) * LENGTH
            packed = pack([(f"{book}-{piece}", ids[start : start + length * LENGTH - 1])], LENGTH, **special)
            name = f"{book:02}-{piece:03}.arrow"
            with output.create(f"{split}/{name}") as stream:
                write_shard(stream, packed)
            listed.append({"name": name, "rows": len(packed.ids)})
        tokens = length * LENGTH * len(listed)
        counts = {"tokens": tokens, "bytes": round(size * tokens), "documents": len(listed)}
        splits[split] = counts | {"shards": listed}
    output.write_json("rows.json", {"row_length": LENGTH, **special, "splits": splits})


def settings(width: int, steps: int, order: int) -> PretrainConfig:
    model = PRETRAIN["model"] | {"depth": 2, "context": LENGTH}
    own = {"workers": 1, "micro_batch": BATCH, "batch": BATCH, "steps": steps, "model": model}
    return PretrainConfig.model_validate(PRETRAIN | own | {"window_shards": width, "seed": order})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("file", type=Path)
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--shards", type=int, default=BOOKS, help=f"a multiple of {BOOKS}")
    parser.add_argument("--rows", type=int, default=40, help="of each shard")
    parser.add_argument("--widths", type=int, nargs="+", default=[BOOKS, 24, 6], help="the full one first")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--orders", type=int, default=2, help="of each seed")
    options = parser.parse_args()
    steps, left = divmod(options.shards * options.rows, BATCH)
    if options.shards % BOOKS or left:
        parser.error(f"--shards must be a multiple of {BOOKS}, and all rows one of {BATCH}")
    runs = list(product(options.seeds, range(options.orders)))
    bits = np.empty((len(options.widths), len(runs)))
    with tempfile.TemporaryDirectory() as folder:
        tokens = Artifact(folder)
        write_tokens(options.file, options.text_column, options.shards, options.rows, tokens)
        print(f"{options.shards} shards, {steps * BATCH} rows, {steps} steps", flush=True)
        for (place, (seed, order)), (number, width) in product(enumerate(runs), enumerate(options.widths)):
            found, seconds = learnt(settings(width, steps, 100 * seed + order), tokens, seed, 1)
            bits[number, place] = found
            print(f"seed {seed}, order {order}, width {width}: {found:.4f}, {seconds:.0f} CPU s", flush=True)
    if options.orders > 1:
        within = bits[0].reshape(len(options.seeds), options.orders).var(axis=1, ddof=1).mean() ** 0.5
        print(f"orders of width {options.widths[0]} with one seed: deviation {within:.4f}")
    for width, more in islice(zip(options.widths, bits - bits[0], strict=True), 1, None):
        error = more.std(ddof=1) / len(more) ** 0.5 if len(more) > 1 else float("nan")
        print(f"width {width}: {more.mean():+.4f} ± {error:.4f} (standard error, {len(more)} pairs)")


if __name__ == "__main__":
    main()
