"""Does a shuffle within windows of shards cost quality? Validation loss of a small model for each width.

    python -m benchmarks.training.windows FILE [--widths 96 24 6] [--seeds 0 1 2] [--steps 400]

FILE is Parquet or JSONL with long documents, such as books. Each document is a shard of its own: shards
differ as much as they can, which is the hard case for windows. One epoch at most; a twentieth of each
document's rows is held out. Prints each width's mean difference from the first one, the full shuffle.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks.corpus.encoding import LEARNT_FROM, read
from headwater.data_pipeline.tokens.encoder import Encoder
from headwater.data_pipeline.tokens.tokenizer import save_tokenizer, train, wrap
from headwater.llm.model.build import initialise
from headwater.llm.model.shape import ModelConfig, hf_config
from headwater.llm.rows.order import ShuffledOrder
from headwater.llm.rows.windows import Windows

LENGTH, BATCH, SHARDS, HELD_OUT = 128, 16, 96, 20
VOCABULARY = 2_048


def rows_of(texts: list[str], steps: int) -> tuple[list[np.ndarray], np.ndarray, float]:
    """Training rows of each document, and held-out rows: int64 [n, LENGTH + 1]; and UTF-8 bytes per token."""
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(
            wrap(train("".join(texts)[:LEARNT_FROM].splitlines(keepends=True), VOCABULARY, 2)), folder
        )
        encoded = Encoder(folder).encode(texts)
    wanted = -(-steps * BATCH // SHARDS)
    shards, held_out = [], []
    for ids in encoded:
        whole = np.asarray(ids, np.int64)[: len(ids) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
        apart = np.arange(len(whole)) % HELD_OUT == 0
        shards.append(whole[~apart][:wanted])
        held_out.append(whole[apart][:8])
    size = sum(len(text.encode()) for text in texts) / sum(map(len, encoded))
    return shards, np.concatenate(held_out), size


def trained(shards: list[np.ndarray], held_out: np.ndarray, width: int, seed: int, steps: int) -> float:
    """Nats per held-out token after so many steps; the learning rate falls to 0 in the last 40 %."""
    rows = np.concatenate(shards)
    order = ShuffledOrder(len(rows), BATCH, seed, Windows(tuple(map(len, shards)), width))
    special = cast("Any", SimpleNamespace(eos_token_id=0, pad_token_id=3))
    model = initialise(hf_config(ModelConfig(depth=2, width=128, context=LENGTH), VOCABULARY, special), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 20, (steps - step) / (0.4 * steps))
        loss = loss_of(model, rows[order.indices(step)])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        parts = np.array_split(held_out, -(-len(held_out) // 32))
        return float(np.average([float(loss_of(model, part)) for part in parts], weights=[*map(len, parts)]))


def loss_of(model: torch.nn.Module, rows: np.ndarray) -> torch.Tensor:
    ids = torch.from_numpy(rows)
    logits = model(input_ids=ids[:, :-1]).logits
    return cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("file", type=Path)
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--widths", type=int, nargs="+", default=[SHARDS, 24, 6])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    needed = 5 * (LENGTH + 1) * options.steps * BATCH // SHARDS
    texts = [text[:needed] for text in read(options.file, options.text_column) if len(text) >= needed][
        :SHARDS
    ]
    shards, held_out, size = rows_of(texts, options.steps)
    print(
        f"{len(shards)} shards, {sum(map(len, shards))} rows of {LENGTH}, {len(held_out)} held out",
        flush=True,
    )
    bits = np.empty((len(options.widths), len(options.seeds)))
    for (place, seed), (number, width) in product(enumerate(options.seeds), enumerate(options.widths)):
        started = time.process_time()
        nats = trained(shards, held_out, width, seed, options.steps)
        bits[number, place] = nats / math.log(2) / size
        took = time.process_time() - started
        print(
            f"seed {seed}, width {width}: {bits[number, place]:.4f} bits per byte, {took:.0f} CPU s",
            flush=True,
        )
    for width, more in zip(options.widths, bits - bits[0], strict=True):
        print(f"width {width}: {more.mean():+.4f} ± {more.std(ddof=1):.4f} more than the first")


if __name__ == "__main__":
    main()
