"""Packing documents into rows, end to end and best fit: share padded, share cut, CPU time.

    python -m benchmarks.corpus.packing FILE… [--text-column text] [--vocab-size 4096] [--part 512]

Files are JSONL or Parquet, such as the `kept/*.parquet` of a cleaned corpus; documents are packed in parts of
`--part`, as in the stage `tokenize`. A document that would fit into one row counts as "cut" if it is split.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks.corpus.encoding import LEARNT_FROM, read
from headwater.data_pipeline.tokens.encoder import Encoder
from headwater.data_pipeline.tokens.packing import PackedRows, Packing, best_fit, pack
from headwater.data_pipeline.tokens.tokenizer import save_tokenizer, train, wrap

END, PAD = 0, 3


def whole_but_cut(packed: PackedRows, sizes: np.ndarray, length: int) -> int:
    """Number of documents that would fit into one row but have targets in several."""
    row = np.repeat(np.arange(len(packed.ids)), np.diff(packed.offsets))
    # The first token of a row may be a document end that was a target in the previous row.
    only_the_end = np.zeros(len(row), bool)
    only_the_end[:-1] = (packed.starts[:-1] == 0) & (packed.starts[1:] == 1) & (row[:-1] == row[1:])
    rows_of = np.bincount(packed.owners[~only_the_end], minlength=len(sizes))
    return int(((rows_of > 1) & (sizes <= length)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--vocab-size", type=int, default=4_096)
    parser.add_argument("--part", type=int, default=512, help="documents that are packed together")
    options = parser.parse_args()
    texts = [text for file in options.files for text in read(file, options.text_column)]
    with tempfile.TemporaryDirectory() as folder:
        sample = "".join(texts)[:LEARNT_FROM].splitlines(keepends=True)
        save_tokenizer(wrap(train(sample, options.vocab_size, 2)), folder)
        encoder = Encoder(folder)
        documents = [(str(n), ids) for n, ids in enumerate(encoder.encode(texts))]
    sizes = np.array([len(ids) + 1 for _, ids in documents])
    print(f"{len(documents)} documents, {sizes.sum()} tokens, median {np.median(sizes):.0f}")
    print(f"{'row':>6} {'packing':<12}{'rows':>8}{'padded':>9}{'fit a row':>11}{'cut':>7}{'CPU s':>8}")
    parts = [slice(at, at + options.part) for at in range(0, len(documents), options.part)]
    for length in (256, 512, 1024, 2048):
        for packing in get_args(Packing):
            started = time.process_time()
            packed = [
                pack(
                    documents[part],
                    length,
                    end_id=END,
                    pad_id=PAD,
                    vocab_size=encoder.vocab_size,
                    packing=packing,
                )
                for part in parts
            ]
            seconds = time.process_time() - started
            rows = sum(len(one.ids) for one in packed)
            padded = sum(one.padding for one in packed) / (rows * length)
            cut = sum(
                whole_but_cut(one, sizes[part], length) for one, part in zip(packed, parts, strict=True)
            )
            fit = int((sizes <= length).sum())
            print(f"{length:>6} {packing:<12}{rows:>8}{padded:>9.2%}{fit:>11}{cut:>7}{seconds:>8.2f}")
    random = np.random.default_rng(0).lognormal(6, 1.2, 1_000_000).astype(np.int64) % 2048 + 1
    started = time.process_time()
    bins = best_fit(random, 2048)
    seconds = time.process_time() - started
    padded = 1 - random.sum() / (2048 * (int(bins.max()) + 1))
    print(f"best fit of 1,000,000 documents alone: {seconds:.2f} CPU s, {padded:.3%} padded")


if __name__ == "__main__":
    main()
