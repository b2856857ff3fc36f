"""Time to write and read a checkpoint, compared with a training step and DeepSpeed's own checkpoint.

python -m benchmarks.training.checkpoint [DEPTH] [RANKS]
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from headwater.llm.model.build import initialise
from headwater.llm.model.shape import ModelConfig, hf_config
from headwater.llm.training import zero
from headwater.llm.training.config import TrainConfig
from headwater.llm.training.state import elements
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.ranks import on_ranks


def measure(depth: int, folder: Path) -> None:
    """Measure on every rank; print on rank 0."""
    world_size = dist.get_world_size()
    for optimizer, stage in itertools.product(("adamw", "muon"), (2, 3)):
        model = initialise(hf_config(ModelConfig(depth=depth), 4096, chat_tokenizer()), 0)
        parameters = sum(p.numel() for p in model.parameters())
        settings = {"batch": world_size, "micro_batch": 1, "clip": 0.0, "zero": {"stage": stage}}
        config = TrainConfig.model_validate(settings | {"optimizer": optimizer})
        engine = zero.initialise_engine(model, zero.deepspeed_config(config, "fp32", world_size), config)
        own, theirs = folder / f"own-{optimizer}-{stage}", str(folder / f"theirs-{optimizer}-{stage}")
        own.mkdir(exist_ok=True)
        seconds = {
            "step": clock(partial(step, engine)),
            "copy (blocks training)": clock(partial(copy, engine)),
            "save": clock(partial(elements.save, engine, own, {})),
            "load": clock(partial(elements.load, engine, own)),
            "DeepSpeed save": clock(partial(engine.save_checkpoint, theirs, "state")),
            "DeepSpeed load": clock(partial(engine.load_checkpoint, theirs, "state")),
        }
        if dist.get_rank() == 0:
            size = sum(path.stat().st_size for path in own.iterdir()) / 1e6
            shown = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
            print(f"{parameters / 1e6:.1f} M, {optimizer}, ZeRO {stage}, {size:.0f} MB: {shown}", flush=True)


def copy(engine: Any) -> None:
    list(elements.pieces(engine))


def step(engine: Any) -> None:
    ids = torch.randint(5, 300, (1, 256))
    engine.backward(engine(input_ids=ids, labels=ids, use_cache=False).loss)
    engine.step()


def clock(work: Callable[[], object], times: int = 3) -> float:
    """Median seconds, with a barrier so that all ranks run at the same time."""
    taken = []
    for _ in range(times):
        dist.barrier()
        started = time.perf_counter()
        work()
        dist.barrier()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[times // 2]


if __name__ == "__main__":
    depth, ranks = (int(value) for value in [*sys.argv[1:], "8", "2"][:2])
    with tempfile.TemporaryDirectory() as where:
        on_ranks(ranks, measure, depth, Path(where))
