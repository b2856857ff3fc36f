"""Bits per byte of held-out books after some tokens: settings of pretraining compared over several seeds.

    python -m benchmarks.training.frontier STORE BOOKS.parquet [--seeds 0 1 2] [--steps 122]
        [--depth 4] [--set model.head_width=32 …] [--rows FOLDER]

Texts, shape and settings are those of `benchmarks.training.learning`, whose first stages run once
in STORE. The training loop's own steps run in one local process with one thread. `--rows` writes what is
trained and held out, in order, for another trainer to read: `rows-SEED.npy` and `held-out.npy`, int64
[rows, 513], with the bytes of held-out text in `bytes.txt`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import yaml

from benchmarks.training.learning import PRETRAIN, prepared
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.tokens.shards import TokenRows
from headwater.llm.model.origins import fresh
from headwater.llm.model.shape import hf_config
from headwater.llm.stages.pretrain import PretrainConfig, RowBatches, batch_order
from headwater.llm.training import engine as training_engine
from headwater.llm.training.bits_per_byte import BitsPerByte
from headwater.llm.training.job import TrainJob, Worker
from headwater.llm.training.loop import train_step
from headwater.llm.training.losses.objectives import NextToken
from tests.llm.jobs import NOWHERE
from tests.llm.ranks import on_ranks

EVERY = 4
"""Every so many held-out rows are measured."""


class Some:
    """Every so many rows; their bytes are estimated by their share of the tokens."""

    def __init__(self, rows: TokenRows, every: int) -> None:
        self.ids = rows.gather(np.arange(0, len(rows), every))
        self.pad_id, self.end_id, self.corpora = rows.pad_id, rows.end_id, dict[str, range]()
        self.bytes = rows.bytes * int((self.ids[:, 1:] != rows.pad_id).sum()) / rows.tokens

    def __len__(self) -> int:
        return len(self.ids)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        return self.ids[indices]


def settings(options: argparse.Namespace, seed: int) -> PretrainConfig:
    own = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in options.set)}
    shape = {key.removeprefix("model."): own.pop(key) for key in list(own) if key.startswith("model.")}
    model = {"depth": options.depth, "context": 512} | PRETRAIN["model"] | shape
    fixed = {"workers": 1, "micro_batch": 8, "steps": options.steps, "seed": seed, "model": model}
    return PretrainConfig.model_validate(PRETRAIN | fixed | own)


def on_this_rank(config: PretrainConfig, tokens: Artifact, born: int, every: int, output: Path) -> None:
    """Train a model of the seed `born`; write its bits per byte on every so many held-out rows, and CPU s."""
    rows, held_out = TokenRows(tokens, "train"), Some(TokenRows(tokens, "validation"), every)
    order = batch_order(rows, config)
    source = RowBatches(rows, order, cut=config.cut)
    special = cast("Any", SimpleNamespace(eos_token_id=rows.end_id, pad_token_id=rows.pad_id))
    shape = hf_config(config.model, rows.vocab_size, special)
    model = fresh(shape, born, zero_outputs=config.model.zero_outputs)
    engine = training_engine.build(model, config, 1)
    worker = Worker(0, 1, engine, engine.device, peak=1e12)
    worker.tell = lambda: (0.0, 0.0)
    job = TrainJob("frontier", config, NextToken(config.z_loss), source, lambda: model, NOWHERE, tokens)
    source.open(worker)
    for step in range(config.steps):
        train_step(job, worker, step)
    engine.module.eval()
    found = BitsPerByte(cast("TokenRows", held_out), 8)(worker)["bits_per_byte"]
    output.write_text(f"{found} {time.process_time()}")


def learnt(config: PretrainConfig, tokens: Artifact, born: int, every: int) -> tuple[float, float]:
    """Bits per byte after a run in a process of its own, and its CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.txt"
        on_ranks(1, on_this_rank, config, tokens, born, every, output)
        bits, seconds = map(float, output.read_text().split())
    return bits, seconds


def write_rows(options: argparse.Namespace, tokens: Artifact) -> None:
    rows, held_out = TokenRows(tokens, "train"), Some(TokenRows(tokens, "validation"), EVERY)
    options.rows.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        order = batch_order(rows, settings(options, seed))
        taken = [order.indices(step) for step in range(options.steps)]
        np.save(options.rows / f"rows-{seed}.npy", rows.gather(np.concatenate(taken)))
    np.save(options.rows / "held-out.npy", held_out.ids)
    (options.rows / "bytes.txt").write_text(str(held_out.bytes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("store", type=Path)
    parser.add_argument("books", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=122)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of pretraining")
    parser.add_argument("--rows", type=Path, metavar="FOLDER", help="write the rows instead of training")
    options = parser.parse_args()
    prepared(options.store, options.books)
    store = Store(str(options.store / "store"))
    (made,) = [each for each in store.manifests() if each.stage == "tokenize"]
    tokens = store.artifact("tokenize", made.key)
    if options.rows:
        write_rows(options, tokens)
        return
    found = []
    for seed in options.seeds:
        bits, seconds = learnt(settings(options, seed), tokens, seed, EVERY)
        found.append(bits)
        print(f"seed {seed}: {bits:.4f}, {seconds:.0f} CPU s", flush=True)
    config = settings(options, 0)
    read = config.sizes().before(config.steps) * 512
    spread = statistics.stdev(found) if len(found) > 1 else 0.0
    print(
        f"{' '.join(options.set) or 'as it is'}: {statistics.mean(found):.4f} ± {spread:.4f} bits per byte "
        f"after {read / 1e6:.3f} M tokens, {len(found)} seeds",
        flush=True,
    )


if __name__ == "__main__":
    main()
