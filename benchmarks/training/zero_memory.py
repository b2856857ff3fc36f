"""Bytes of parameters, gradients and optimizer state per worker under ZeRO, compared with the formula.

    python -m benchmarks.training.zero_memory [--depth 6] [--workers 1,2,4] [--precision fp32,bf16]
                                     [--optimizer adamw,muon] [--stages 0,1,2,3]

Each case trains on local processes over gloo and counts the bytes that each engine holds between the two
micro-batches of the third step. Prints the worker with the most bytes, and in brackets the formula's value.
"""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from headwater.llm.model.build import initialise
from headwater.llm.model.origins import fresh
from headwater.llm.model.shape import ModelConfig, Weight, hf_config, weights_of
from headwater.llm.planning.memory import largest_state
from headwater.llm.training import zero
from headwater.llm.training.config import TrainConfig
from headwater.llm.training.held_memory import StateBytes, count_bytes, state_bytes
from headwater.llm.training.zero_config import ZeroConfig
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.ranks import on_ranks

PARTS = ("parameters", "gradients", "optimizer")


def other_bytes(seen: set[int]) -> int:
    """Bytes of all live tensors whose blocks are not in `seen`: what `state_bytes` missed."""
    return count_bytes((found for found in gc.get_objects() if issubclass(type(found), torch.Tensor)), seen)


def held(model: torch.nn.Module, stage: int, precision: str, optimizer: str) -> tuple[StateBytes, int]:
    """State of this rank's engine in the middle of the third step, and the bytes of all other tensors.

    The gradient bucket is small, so that its size, a setting, does not dominate the count.
    """
    gc.collect()
    before = other_bytes({p.untyped_storage().data_ptr() for p in model.parameters()})
    world_size = dist.get_world_size()
    settings = {"batch": 2 * world_size, "micro_batch": 1, "optimizer": optimizer}
    zero_config = {"stage": stage, "bucket_elements": 10_000}
    config = TrainConfig.model_validate(settings | {"zero": zero_config})
    engine = zero.initialise_engine(model, zero.deepspeed_config(config, precision, world_size), config)
    zero.set_learning_rate(engine, 1e-3, 0.02)
    ids = torch.arange(5, 21)[None]
    for micro_batch in range(5):
        loss = engine(input_ids=ids, labels=ids, use_cache=False).loss
        engine.backward(loss)
        if micro_batch < 4:
            engine.step()
        del loss
    state, seen = state_bytes(engine)
    others = other_bytes(seen) - before
    engine.destroy()
    return state, others


def on_this_rank(folder: str, depth: int, cases: list[tuple[int, str, str]]) -> None:
    tokenizer = chat_tokenizer()
    model = initialise(hf_config(ModelConfig(depth=depth, context=64), 4096, tokenizer), 0)
    rows: list[Any] = []
    for stage, precision, optimizer in cases:
        found, others = held(copy.deepcopy(model), stage, precision, optimizer)
        rows.append([found.parameters, found.gradients, found.optimizer, others])
    Path(folder, f"{dist.get_rank()}.json").write_text(json.dumps(rows))


def measure(world_size: int, depth: int, cases: list[tuple[int, str, str]]) -> list[tuple[StateBytes, int]]:
    """For each case (stage, precision, optimizer): the largest state of any worker, and the largest size of
    other tensors on any worker."""
    with tempfile.TemporaryDirectory() as folder:
        on_ranks(world_size, on_this_rank, folder, depth, cases)
        ranks = [json.loads(path.read_text()) for path in Path(folder).iterdir()]
    by_case = [[rank[case] for rank in ranks] for case in range(len(cases))]
    return [
        (max((StateBytes(*row[:3]) for row in rows), key=lambda state: state.total), max(r[3] for r in rows))
        for rows in by_case
    ]


def meta_weights(depth: int) -> list[Weight]:
    """The weights of the measured model, without allocating them."""
    return weights_of(fresh(hf_config(ModelConfig(depth=depth, context=64), 4096, chat_tokenizer()), 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--precision", default="fp32,bf16")
    parser.add_argument("--optimizer", default="adamw,muon")
    parser.add_argument("--stages", default="0,1,2,3")
    options = parser.parse_args()
    stages = [int(stage) for stage in options.stages.split(",")]
    cases = list(itertools.product(stages, options.precision.split(","), options.optimizer.split(",")))
    weights = meta_weights(options.depth)
    print(f"{sum(weight.size for weight in weights):,} parameters; MB of the worker with the largest state")
    table("ZeRO", "workers", "type", "optimizer", *PARTS, "worst", "other tensors")
    table(*["---"] * (len(PARTS) + 6))
    for world_size in map(int, options.workers.split(",")):
        measured = measure(world_size, options.depth, cases)
        for (stage, precision, optimizer), (state, others) in zip(cases, measured, strict=True):
            formula = largest_state(
                weights,
                ZeroConfig(stage=stage),  # type: ignore[arg-type]
                world_size=world_size,
                precision=precision,
                optimizer=optimizer,  # type: ignore[arg-type]
            )
            pairs = [(getattr(state, part), getattr(formula, part)) for part in PARTS]
            cells = (f"{m / 1e6:.2f} ({f / 1e6:.2f})" for m, f in pairs)
            worst = max(abs(m / f - 1) for m, f in pairs)
            table(stage, world_size, precision, optimizer, *cells, f"{worst:.1%}", f"{others / 1e6:.2f}")


def table(*cells: object) -> None:
    print("|", " | ".join(map(str, cells)), "|")


if __name__ == "__main__":
    main()
