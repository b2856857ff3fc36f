"""Settings of the exchange between workers: what is refused, and that none changes what is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headwater.llm.stages.pretrain import PretrainConfig
from headwater.llm.training import zero
from headwater.llm.training.config import TrainConfig
from headwater.llm.training.loop import Worker, train_step
from headwater.llm.training.state import elements
from headwater.llm.training.undocumented import deepspeed_internals as internals
from headwater.llm.training.zero_config import ZeroConfig
from tests.llm.ranks import on_ranks
from tests.llm.training.parallel.test_sharding import make, record, save

PLAIN: dict[str, Any] = {"stage": 3}
WAYS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "overlapped at 2": {"stage": 2, "overlap_comm": True, "bucket_elements": 5_000},
    "overlapped at 3": PLAIN | {"overlap_comm": True, "bucket_elements": 5_000},
    "kept whole": PLAIN | {"persist_below": 1_000_000},
    "second copies": PLAIN | {"hpz_partition_size": 2},
    "more settings": PLAIN | {"prefetch_elements": 0, "extra": {"sub_group_size": 2_000}},
}


def losses(worker: Worker, job: Any, steps: range) -> list[float]:
    return [train_step(job, worker, step)["loss"] for step in steps]


def every_way(folder: Path) -> None:
    """Three steps; then back to the checkpoint of the first, in the same engine, and the other two again."""
    for name, settings in WAYS.items():
        job, worker = make("adamw", 3, zero=settings)
        found = losses(worker, job, range(1))
        save(worker, folder / name, {})
        found += losses(worker, job, range(1, 3))
        elements.load(worker.engine, folder / name)
        record(folder / f"{name}.json", found + losses(worker, job, range(1, 3)))
    for stage, wanted in ((2, "auto"), (3, "auto"), (3, "model")):
        job, worker = make(
            "adamw", stage, zero={"stage": stage, "grad_accum_dtype": wanted}, precision="bf16"
        )
        ids = job.source.batch(0)["ids"]
        loss, _ = job.objective.loss_sum(worker.engine, {"ids": torch.from_numpy(ids)})
        worker.engine.backward(loss)
        held = {each.dtype for each in internals.held_gradients(worker.engine) if each is not None}
        expected = {"auto": torch.float32, "model": torch.bfloat16}[wanted]
        assert held == {expected}, (stage, wanted, held)


def test_no_setting_of_the_exchange_changes_what_is_trained(tmp_path: Path) -> None:
    on_ranks(2, every_way, tmp_path)
    every = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in WAYS}
    plain = every["plain"][:3]
    assert len(set(plain)) == 3
    for name, found in every.items():
        np.testing.assert_allclose(found[:3], plain, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(found[3:], found[1:3], rtol=1e-6, err_msg=f"{name}, from its checkpoint")


def section(precision: str = "bf16", **settings: Any) -> dict[str, Any]:
    return zero.deepspeed_config(TrainConfig.model_validate(settings), precision, 2)


def test_exchange_and_passes_overlap_on_gpus_alone_unless_it_is_said() -> None:
    for stage, gpus, said, expected in (
        (2, 1, None, True),
        (3, 1, None, True),
        (0, 1, None, False),
        (2, 0, None, False),
        (2, 1, False, False),
        (2, 0, True, True),
    ):
        made = section(zero={"stage": stage, "overlap_comm": said}, gpus_per_worker=gpus)
        assert made["zero_optimization"]["overlap_comm"] is expected


@pytest.mark.parametrize(
    ("stage", "precision", "settings", "kept", "sent"),
    [
        (3, "bf16", {}, "fp32", "fp32"),
        (1, "bf16", {}, "bf16", "fp32"),
        (2, "fp16", {}, "fp16", "fp16"),
        (2, "fp32", {}, "fp32", "fp32"),
        (2, "bf16", {"grad_accum_dtype": "model", "communication_data_type": "model"}, "bf16", "bf16"),
        (3, "fp16", {"grad_accum_dtype": "fp32"}, "fp32", "fp16"),
    ],
)
def test_gradients_of_a_bf16_model_are_added_up_and_sent_in_fp32(
    stage: int, precision: str, settings: dict[str, Any], kept: str, sent: str
) -> None:
    made = section(precision, zero={"stage": stage} | settings)
    assert made["data_types"] == {"grad_accum_dtype": kept} and made["communication_data_type"] == sent


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"stage": 1, "grad_accum_dtype": "fp32"}, "needs stage 2 or 3"),
        ({"stage": 0, "overlap_comm": True}, "needs stage 1, 2 or 3"),
        ({"stage": 2, "persist_below": 10}, "persist_below needs stage 3"),
        ({"stage": 2, "hpz_partition_size": 8}, "hpz_partition_size needs stage 3"),
        ({"stage": 2, "quantised_weights": True}, "quantised_weights needs stage 3"),
        ({"stage": 3, "hpz_partition_size": 8, "offload_parameters": "cpu"}, "exclude each other"),
        ({"stage": 3, "quantised_weights": True, "offload_parameters": "cpu"}, "on the GPU"),
        ({"extra": {"sub_group_sise": 1}}, r"extra\.sub_group_sise: .* did you mean sub_group_size\?"),
        ({"extra": {"overlap_comm": True}}, r"extra\.overlap_comm: .* use `zero\.overlap_comm`"),
        ({"extra": {"stage3_param_persistence_threshold": 1}}, r"use `zero\.persist_below`"),
        (
            {"extra": {"compute_grad_norm": False}},
            r"extra\.compute_grad_norm: Headwater sets this key itself \[type",
        ),
        ({"extra": {"sub_group_size": -1}}, r"extra\.sub_group_size: Input should be greater than"),
        ({"extra": {"leaf_module": {"class": []}}}, r"extra\.leaf_module"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=f"(?m){fault}"):
        ZeroConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"workers": 6, "zero": {"hpz_partition_size": 4}}, r"must divide `workers` \(6\)"),
        ({"workers": 8, "min_workers": 4, "zero": {"hpz_partition_size": 4}}, "excludes `min_workers`"),
        ({"workers": 8, "tensor_parallel": 2, "zero": {"hpz_partition_size": 4}}, "`tensor_parallel`"),
        ({"workers": 2, "zero": {"quantised_gradients": True}}, "need GPUs"),
        (
            {"workers": 2, "gpus_per_worker": 1, "optimizer": "muon", "zero": {"quantised_gradients": True}},
            "needs `optimizer: adamw`",
        ),
    ],
)
def test_what_these_workers_cannot_run_is_refused_by_name(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        PretrainConfig(**(settings | {"batch": 16, "zero": {"stage": 3} | settings["zero"]}))


def test_further_keys_reach_deepspeed() -> None:
    made = section(zero={"extra": {"sub_group_size": 7, "stage3_max_live_parameters": 9}})
    assert made["zero_optimization"]["sub_group_size"] == 7
    assert made["zero_optimization"]["stage3_max_live_parameters"] == 9
