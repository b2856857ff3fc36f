"""A small pretraining job whose rows or layers several ranks share, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.model.build import initialise
from headwater.llm.model.shape import ModelConfig, hf_config
from headwater.llm.rows.order import ShuffledOrder
from headwater.llm.stages.pretrain import PretrainConfig, RowBatches
from headwater.llm.training import engine as training_engine
from headwater.llm.training.loop import TrainJob, Worker, train_step
from headwater.llm.training.losses.objectives import NextToken
from tests.llm.chat_tokenizer import chat_tokenizer

STEPS, SAVED_AT = 3, 2
SHAPE = ModelConfig(depth=2, width=128, kv_groups=2, context=64)  # two heads, one for keys and values


class Store:
    """Rows of 24 tokens and one, some of them padded."""

    pad_id, end_id = 0, 1

    def __init__(self) -> None:
        self.ids = np.random.default_rng(0).integers(5, 300, (64, 25))
        self.ids[::3, 15:] = self.pad_id

    def gather(self, indices: np.ndarray) -> np.ndarray:
        return self.ids[indices]


def fresh(model: ModelConfig = SHAPE) -> torch.nn.Module:
    tokenizer = chat_tokenizer()
    return initialise(hf_config(model, len(tokenizer), tokenizer), 0)


def make(optimizer: str, stage: int, **more: Any) -> tuple[TrainJob, Worker]:
    """`more`: settings of pretraining; how workers share rows or layers."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    settings: dict[str, Any] = {"optimizer": optimizer, "zero": {"stage": stage}, "precision": "fp32"}
    settings |= {"batch": 8, "micro_batch": 2, "steps": STEPS, "clip": 0.5, "model": SHAPE}
    config = PretrainConfig(**(settings | more), workers=world_size)
    engine = training_engine.build(fresh(config.model), config, world_size)
    rows: Any = Store()
    sharing, stretches = config.workers_per_row(), config.sequence_parallel_size()
    order = ShuffledOrder(64, 8, 1, early=config.sizes().early)
    source = RowBatches(rows, order, workers_per_row=sharing, stretches=stretches, cut=config.cut)
    nowhere = Artifact("/nowhere")
    job = TrainJob("test", config, NextToken(1e-3), source, fresh, Folder(nowhere, ""), nowhere)
    worker = Worker(rank, world_size, engine, engine.device, copies=config.tensor_parallel_size())
    source.open(worker)
    return job, worker


def followed(job: TrainJob, worker: Worker, steps: range = range(STEPS)) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step."""
    engine, seen = worker.engine, [0.0]
    take_step = engine.step

    def measured_step() -> None:  # without ZeRO DeepSpeed tells no norm
        seen[0] = sum(float(p.grad.square().sum()) for p in engine.module.parameters()) ** 0.5
        take_step()

    if engine.zero_optimization_stage() == 0:
        engine.step = measured_step
    figures = []
    for step in steps:
        record = train_step(job, worker, step)
        figures.append((record["loss"], record["gradient_norm"] or seen[0]))
    return figures
