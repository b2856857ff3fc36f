"""Our encoder compared with `tokenizers` 0.23 on one thread, in MB of UTF-8 per CPU second.

    python -m benchmarks.corpus.encoding FILE… [--text-column text] [--piece 4000] [--vocab-size 4096]

Files are JSONL, Parquet or plain text; longer documents are cut into pieces of `--piece` characters. The
vocabulary is trained on the first megabyte. Both run in this process; times are CPU time, the median of three
passes. "cold" is the first pass of a newly opened encoder. The ids of all documents are compared.
"""

from __future__ import annotations

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # before `tokenizers` starts its threads
os.environ["RAYON_NUM_THREADS"] = "1"

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from headwater.data_pipeline.tokens.encoder import Encoder
from headwater.data_pipeline.tokens.tokenizer import load_encoder, save_tokenizer, train, wrap

PASSES = 3
LEARNT_FROM = 1_000_000
BATCH = 256
"""Documents per call, as in the stage `tokenize`."""

Encode = Callable[[Sequence[str]], list[np.ndarray]]


def read(file: Path, column: str) -> Iterator[str]:
    if file.suffix == ".parquet":
        yield from pq.read_table(file, columns=[column])[column].to_pylist()
    elif file.suffix == ".jsonl":
        with file.open(encoding="utf-8") as lines:
            yield from (json.loads(line)[column] for line in lines)
    else:
        yield file.read_text(encoding="utf-8")


def encode_all(encode: Encode, texts: list[str]) -> tuple[float, list[np.ndarray]]:
    started = time.process_time()
    ids = [row for start in range(0, len(texts), BATCH) for row in encode(texts[start : start + BATCH])]
    return time.process_time() - started, ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--piece", type=int, default=4_000, help="maximum characters per document")
    parser.add_argument("--vocab-size", type=int, default=4_096)
    parser.add_argument("--limit", type=float, default=20.0, help="MB of text to read")
    options = parser.parse_args()
    texts: list[str] = []
    size = 0
    for file in options.files:
        for whole in read(file, options.text_column):
            for start in range(0, len(whole), options.piece):
                if size < options.limit * 1e6:
                    texts.append(whole[start : start + options.piece])
                    size += len(texts[-1].encode())
    print(f"{len(texts)} documents, {size / 1e6:.2f} MB")
    with tempfile.TemporaryDirectory() as folder:
        sample = "".join(texts)[:LEARNT_FROM]
        save_tokenizer(wrap(train(sample.splitlines(keepends=True), options.vocab_size, 2)), folder)
        theirs = load_encoder(folder)

        def reference(batch: Sequence[str]) -> list[np.ndarray]:
            encodings = theirs.encode_batch_fast(batch, add_special_tokens=False)
            return [np.array(encoding.ids, np.uint32) for encoding in encodings]

        opening = time.process_time()
        encoder = Encoder(folder)
        opening = time.process_time() - opening
        cold, ours_found = encode_all(encoder.encode, texts)
        their_cold, theirs_found = encode_all(reference, texts)
        equal = sum(np.array_equal(a, b) for a, b in zip(theirs_found, ours_found, strict=True))
        they = statistics.median(encode_all(reference, texts)[0] for _ in range(PASSES))
        we = statistics.median(encode_all(encoder.encode, texts)[0] for _ in range(PASSES))
    tokens = sum(map(len, ours_found))
    print(f"{'':<12}{'MB/s':>8}{'M tokens/s':>12}{'cold MB/s':>12}")
    for name, warm, first in (("tokenizers", they, their_cold), ("headwater", we, cold)):
        print(f"{name:<12}{size / warm / 1e6:>8.2f}{tokens / warm / 1e6:>12.2f}{size / first / 1e6:>12.2f}")
    print(
        f"{they / we:.0f}x, cold {their_cold / cold:.0f}x, with opening ({opening:.2f} s) "
        f"{their_cold / (cold + opening):.0f}x; ids equal for {equal} of {len(texts)}"
    )


if __name__ == "__main__":
    main()
