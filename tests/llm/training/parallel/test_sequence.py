"""Sequence parallelism: the same trajectory as with unsplit rows, at every ZeRO stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from headwater.cluster.errors import HeadwaterError
from headwater.llm.model.shape import shape_of
from headwater.llm.stages.pretrain import PretrainConfig
from headwater.llm.training.parallel import sequence
from headwater.llm.training.state import elements
from tests.llm.ranks import on_ranks
from tests.llm.shared_rows import SAVED_AT, SHAPE, STEPS, Store, followed, make

CASES = [("adamw", 0), ("adamw", 1), ("adamw", 2), ("adamw", 3), ("muon", 3)]


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
        job, worker = make(optimizer, stage, sequence_parallel=2)
        figures = followed(job, worker, range(SAVED_AT))
        (folder / f"{optimizer}-{stage}").mkdir(exist_ok=True)
        elements.save(worker.engine, folder / f"{optimizer}-{stage}", {})
        dist.barrier()
        figures += followed(job, worker, range(SAVED_AT, STEPS))
        if worker.rank == 0:
            (folder / f"{optimizer}-{stage}.json").write_text(json.dumps(figures))


def on_one(folder: Path) -> None:
    """Whole rows: from the start, and from the checkpoints of those that shared them."""
    for optimizer, stage in CASES:
        if stage in (0, 3):
            figures = followed(*make(optimizer, 1))
            (folder / f"{optimizer}-whole.json").write_text(json.dumps(figures))
        job, worker = make(optimizer, stage)
        elements.load(worker.engine, folder / f"{optimizer}-{stage}")
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


def test_sequence_slices_cover_the_row_and_overlap_by_one_target() -> None:
    ids = Store().ids[:2]
    parts = [sequence.stretch(ids, rank, 4) for rank in (4, 5, 6, 7)]
    np.testing.assert_array_equal(np.concatenate([part[:, :-1] for part, _ in parts], 1), ids[:, :-1])
    np.testing.assert_array_equal(np.concatenate([part[:, 1:] for part, _ in parts], 1), ids[:, 1:])
    np.testing.assert_array_equal(np.concatenate([at for _, at in parts], 1), [np.arange(24)] * 2)


def test_indivisible_sizes_are_refused_before_anything_starts() -> None:
    fits: dict[str, Any] = {"workers": 4, "elastic": False, "batch": 16, "micro_batch": 4, "row_length": 512}
    shape = shape_of(SHAPE, 400)
    sequence.check(2, shape, **fits)
    for changed, fault in (
        ({"workers": 3}, "3 workers cannot form groups of 2"),
        ({"elastic": True}, "must not change"),
        ({"row_length": 511}, "a row of 511 tokens"),
        ({"batch": 12}, "a batch of 12 is not a whole number of micro-batches of 4"),
    ):
        with pytest.raises(HeadwaterError, match=fault):
            sequence.check(2, shape, **(fits | changed))
    with pytest.raises(HeadwaterError, match="2 heads cannot be split evenly"):
        sequence.check(4, shape, **fits)
    with pytest.raises(ValueError, match="cannot separate documents"):
        PretrainConfig(sequence_parallel=2, separate_documents=True)
