"""Batches and sequences that grow by stages: one trajectory however the run is cut up, and plain refusals."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from headwater.cluster.errors import HeadwaterError
from headwater.llm.stages.data.row_batches import cut_rows
from headwater.llm.stages.pretrain import Pretrain, PretrainConfig, check_cuts
from headwater.llm.training.loop import train_step
from headwater.llm.training.state import elements
from tests.llm.ranks import on_ranks
from tests.llm.shared_rows import make

STAGES = [
    {"until": 2, "batch": 3, "row_length": 8},
    {"until": 5, "batch": 12},
    {"until": 6, "row_length": 12},
]
STEPS, SAVED_AT = 7, 4
"""Saved within a stage; two workers make 1, 3 and 2 passes for a batch."""
CASES = list(itertools.product(("adamw", "muon"), (0, 1, 2, 3)))
TOLERANCE = {"adamw": 1e-5, "muon": 5e-5}
"""As in `test_sharding.py`."""


def followed(optimizer: str, stage: int, folder: Path, name: str, *, load: bool = False, **more: Any) -> None:
    settings = {"batch_stages": STAGES, "steps": STEPS, "learning_rate": 3e-3, "schedule": "constant"}
    job, worker = make(optimizer, stage, **(settings | more))
    begun = elements.load(worker.engine, folder / "half")["step"] if load else 0
    losses = []
    for step in range(begun, STEPS):
        losses.append(train_step(job, worker, step)["loss"])
        if step + 1 == SAVED_AT and name == "muon-3":
            (folder / "half").mkdir(exist_ok=True)
            elements.save(worker.engine, folder / "half", {"step": SAVED_AT})
            dist.barrier()
    if worker.rank == 0:
        (folder / f"{name}.json").write_text(json.dumps(losses))


def on_two(folder: Path) -> None:
    for optimizer, stage in CASES:
        followed(optimizer, stage, folder, f"{optimizer}-{stage}")


def on_one(folder: Path) -> None:
    for optimizer in TOLERANCE:
        followed(optimizer, 0, folder, optimizer, micro_batch=64)
    followed("muon", 2, folder, "resumed", load=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    on_ranks(2, on_two, folder)
    on_ranks(1, on_one, folder)
    return folder


@pytest.mark.parametrize(("optimizer", "stage"), CASES)
def test_losses_of_two_workers_at_every_zero_stage_are_those_of_one_pass(
    trained: Path, optimizer: str, stage: int
) -> None:
    alone, found = (
        json.loads((trained / f"{n}.json").read_text()) for n in (optimizer, f"{optimizer}-{stage}")
    )
    assert len(set(alone)) == STEPS
    np.testing.assert_allclose(found, alone, rtol=TOLERANCE[optimizer])


def test_a_run_resumed_within_a_stage_on_one_worker_continues_the_same_trajectory(trained: Path) -> None:
    undisturbed = json.loads((trained / "muon-3.json").read_text())
    resumed = json.loads((trained / "resumed.json").read_text())
    np.testing.assert_allclose(resumed, undisturbed[SAVED_AT:], rtol=TOLERANCE["muon"])


def test_the_parts_of_a_row_have_each_token_as_a_target_once() -> None:
    rows = np.arange(26).reshape(2, 13)
    parts = cut_rows(rows, 4)
    assert parts.tolist()[:3] == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, 10, 11, 12]]
    assert parts[:, 1:].reshape(2, 12).tolist() == rows[:, 1:].tolist()
    assert (cut_rows(rows, 12) == rows).all()


def test_settings_count_rows_and_leave_keys_alone() -> None:
    config = PretrainConfig.model_validate(
        {"batch": 8, "micro_batch": 2, "steps": 10, "batch_stages": STAGES}
    )
    assert config.sizes().before(10) == 2 * 3 + 3 * 12 + 5 * 8
    assert config.whole_steps() == 82 / 8
    assert [config.cut(step) for step in (0, 1, 2, 5, 6)] == [8, 8, None, 12, None]
    assert [config.accumulation(2, step) for step in (0, 2, 5)] == [1, 3, 2]
    assert config.accumulation(2) == 3
    keys = {Pretrain(PretrainConfig(steps=10)).key({}, {}), Pretrain(config).key({}, {})}
    plain = PretrainConfig.model_validate(
        {"steps": 10, "batch_stages": [], "weight_decay_schedule": "constant"}
    )
    assert len(keys) == 2 and Pretrain(plain).key({}, {}) in keys


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"batch_stages": [{"until": 5, "batch": 8}, {"until": 5, "batch": 9}]}, "`until` must rise"),
        ({"batch_stages": [{"until": 5}]}, "until 5 of `batch_stages` changes nothing"),
        ({"batch_stages": [{"until": 5, "batch": 1}]}, "too small for 2 workers"),
        ({"batch_stages": STAGES, "sequence_parallel": 2}, "cannot be combined with `sequence_parallel`"),
        ({"batch_stages": STAGES, "tensor_parallel": 2}, "cannot be combined with .* `tensor_parallel`"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        PretrainConfig.model_validate(settings)


def test_rows_that_have_no_equal_parts_are_refused() -> None:
    config = PretrainConfig.model_validate({"batch_stages": STAGES})
    check_cuts(config, 24)
    with pytest.raises(HeadwaterError, match="rows of 20 tokens cannot be cut into equal parts of 8"):
        check_cuts(config, 20)
