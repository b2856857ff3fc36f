"""Rows that several workers share: the same trajectory as with whole rows, at every ZeRO stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from cluster.artifact import Artifact, Folder
from cluster.errors import HeadwaterError
from llm import checkpoint, sequence_parallel, training_engine
from llm.batches import BatchPlan
from llm.model import ModelConfig, hf_config, initialise, shape_of
from llm.objectives import NextToken
from llm.pretrain import PackedRows, PretrainConfig
from llm.trainer import TrainJob, Worker, train_step
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.ranks import on_ranks

STEPS, SAVED_AT = 3, 2
SHAPE = ModelConfig(depth=2, width=128, kv_groups=2, context=64)  # two heads, one for keys and values
CASES = [("adamw", 0), ("adamw", 1), ("adamw", 2), ("adamw", 3), ("muon", 3)]


class Store:
    """Rows of 24 tokens and one, some of them padded."""

    pad_id, end_id = 0, 1

    def __init__(self) -> None:
        self.ids = np.random.default_rng(0).integers(5, 300, (64, 25))
        self.ids[::3, 15:] = self.pad_id

    def gather(self, indices: np.ndarray) -> np.ndarray:
        return self.ids[indices]


def fresh() -> torch.nn.Module:
    tokenizer = chat_tokenizer()
    return initialise(hf_config(SHAPE, len(tokenizer), tokenizer), 0)


def make(optimizer: str, stage: int, workers_a_row: int) -> tuple[TrainJob, Worker]:
    rank, world_size = dist.get_rank(), dist.get_world_size()
    settings: dict[str, Any] = {"optimizer": optimizer, "zero": {"stage": stage}, "precision": "fp32"}
    sizes = {"batch": 8, "micro_batch": 4, "steps": STEPS, "sequence_parallel": workers_a_row}
    config = PretrainConfig(**settings, **sizes, workers=world_size, clip=0.5)
    engine = training_engine.build(fresh(), config, world_size)
    source = PackedRows(Store(), BatchPlan(64, 8, 1), workers_a_row=workers_a_row)  # type: ignore[arg-type]
    nowhere = Artifact("/nowhere")
    job = TrainJob("test", config, NextToken(1e-3), source, fresh, Folder(nowhere, ""), nowhere)
    worker = Worker(rank, world_size, engine, engine.device)
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


def forget_exchange() -> None:
    """As in a new process: a training worker builds one engine."""
    from deepspeed.runtime.sequence_parallel import parallel_state_sp
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    parallel_state_sp._release_sequence_parallel_groups()
    ALL_ATTENTION_FUNCTIONS["sdpa"] = sdpa_attention_forward


def on_two(folder: Path) -> None:
    """Each row on both ranks."""
    for optimizer, stage in CASES:
        forget_exchange()
        job, worker = make(optimizer, stage, 2)
        figures = followed(job, worker, range(SAVED_AT))
        (folder / f"{optimizer}-{stage}").mkdir(exist_ok=True)
        checkpoint.save(worker.engine, folder / f"{optimizer}-{stage}", {})
        dist.barrier()
        figures += followed(job, worker, range(SAVED_AT, STEPS))
        if worker.rank == 0:
            (folder / f"{optimizer}-{stage}.json").write_text(json.dumps(figures))


def on_one(folder: Path) -> None:
    """Whole rows: from the start, and from the checkpoints of those that shared them."""
    for optimizer, stage in CASES:
        if stage in (0, 3):
            figures = followed(*make(optimizer, 1, 1))
            (folder / f"{optimizer}-whole.json").write_text(json.dumps(figures))
        job, worker = make(optimizer, stage, 1)
        checkpoint.load(worker.engine, folder / f"{optimizer}-{stage}")
        figures = followed(job, worker, range(SAVED_AT, STEPS))
        (folder / f"{optimizer}-{stage}-resumed.json").write_text(json.dumps(figures))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stretches")
    on_ranks(2, on_two, folder)
    on_ranks(1, on_one, folder)
    return folder


@pytest.mark.parametrize(("optimizer", "stage"), CASES)
def test_a_row_on_two_workers_gives_the_losses_and_gradients_of_one(
    ran: Path, optimizer: str, stage: int
) -> None:
    whole = np.array(json.loads((ran / f"{optimizer}-whole.json").read_text()))
    shared = np.array(json.loads((ran / f"{optimizer}-{stage}.json").read_text()))
    resumed = np.array(json.loads((ran / f"{optimizer}-{stage}-resumed.json").read_text()))
    np.testing.assert_allclose(shared[:, 0], whole[:, 0], rtol=1e-5)
    np.testing.assert_allclose(resumed[:, 0], whole[SAVED_AT:, 0], rtol=1e-5)
    if optimizer == "adamw":
        np.testing.assert_allclose(shared[:, 1], whole[:, 1], rtol=1e-4)


def test_the_stretches_of_a_row_are_all_of_it_and_overlap_by_a_target() -> None:
    ids = Store().ids[:2]
    parts = [sequence_parallel.stretch(ids, rank, 4) for rank in (4, 5, 6, 7)]
    np.testing.assert_array_equal(np.concatenate([part[:, :-1] for part, _ in parts], 1), ids[:, :-1])
    np.testing.assert_array_equal(np.concatenate([part[:, 1:] for part, _ in parts], 1), ids[:, 1:])
    np.testing.assert_array_equal(np.concatenate([at for _, at in parts], 1), [np.arange(24)] * 2)


def test_sizes_that_cannot_be_shared_out_are_refused_before_anything_starts() -> None:
    fits: dict[str, Any] = {"workers": 4, "elastic": False, "batch": 16, "micro_batch": 4, "row_length": 512}
    shape = shape_of(SHAPE, 400)
    sequence_parallel.check(2, shape, **fits)
    for changed, fault in (
        ({"workers": 3}, "3 workers cannot form groups of 2"),
        ({"elastic": True}, "must not change"),
        ({"row_length": 511}, "a row of 511 tokens"),
        ({"batch": 12}, "a batch of 12 is not a number of micro-batches of 4"),
    ):
        with pytest.raises(HeadwaterError, match=fault):
            sequence_parallel.check(2, shape, **(fits | changed))
    with pytest.raises(HeadwaterError, match="2 heads cannot be shared out"):
        sequence_parallel.check(4, shape, **fits)
    with pytest.raises(ValueError, match="borders of documents"):
        PretrainConfig(sequence_parallel=2, separate_documents=True)
