"""A model that one worker cannot hold trains on four and ends on two."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.inference import parity
from headwater.llm.model.origins import fresh
from headwater.llm.model.shape import ModelConfig, hf_config, weights_of
from headwater.llm.training import zero
from headwater.llm.training.loop import read_history
from headwater.llm.training.state import elements
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.jobs import run_job
from tests.llm.models import save_model
from tests.llm.random_rows import Rows
from tests.llm.ranks import on_ranks

FEW = 1_000_000
SHARDED: dict[str, Any] = {
    "stage": 3,
    "bucket_elements": FEW,
    "prefetch_elements": FEW,
    # DeepSpeed keeps up to 1e9 elements gathered from the forward to the backward pass: all of a small model.
    # The optimizer's step needs several copies of what it updates at a time: up to 1e9 elements.
    "extra": {
        "stage3_max_live_parameters": FEW,
        "stage3_max_reuse_distance": FEW,
        "sub_group_size": 8 * FEW,
    },
}
SETTINGS: dict[str, Any] = {
    "steps": 4,
    "micro_batch": 1,
    "schedule": "constant",
    "background_checkpoints": False,
    "zero": SHARDED,
}
OFFLOADED = SHARDED | {"offload_optimizer": "cpu", "offload_parameters": "cpu"}
SHARE = 1.0
"""Memory of a worker, as a share of weights, gradients and moments."""


def large() -> torch.nn.Module:
    return fresh(hf_config(ModelConfig(depth=16, width=512, context=64), 2_048, chat_tokenizer()), 5)


def returns_what_is_freed() -> None:
    """glibc's settings M_MMAP_THRESHOLD, M_ARENA_MAX and M_TRIM_THRESHOLD: the limit counts what it keeps."""
    libc = ctypes.CDLL(None)
    assert libc.mallopt(-3, 1 << 16) and libc.mallopt(-8, 1) and libc.mallopt(-1, 1 << 16)


def private_bytes() -> int:
    """What RLIMIT_DATA counts: private memory that may be written to."""
    return int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024


def trained(folder: Path, limited: bool, tokenizer: Folder | None, settings: dict[str, Any]) -> None:
    returns_what_is_freed()
    elements.FILE_BYTES = 16 << 20
    parity.MAX_BYTES = 1 << 20  # larger models are not opened again after their export
    zero.start()
    run_job(folder / "small", Rows(8), folder / "screen", steps=1)  # imports what is imported late
    if limited:
        state = 16 * sum(weight.size for weight in weights_of(large()))
        limit = private_bytes() + int(SHARE * state)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    job = folder / ("limited" if limited else "free")
    run_job(job, Rows(8), folder / "screen", model=large, tokenizer=tokenizer, **(SETTINGS | settings))


def loss_of(folder: Path) -> float:
    """Of a model as transformers opens it. (Adam makes whole steps of a few weights' rounding errors.)"""
    ids = torch.arange(5, 29)[None]
    return float(AutoModelForCausalLM.from_pretrained(folder)(input_ids=ids, labels=ids).loss)


@pytest.mark.soak  # `make test` has test_birth.py and test_sharding.py
def test_a_model_that_one_worker_cannot_hold_trains_on_four_and_ends_on_two(tmp_path: Path) -> None:
    tokenizer = save_model(tmp_path)
    with pytest.raises(Exception, match="allocate memory"):
        on_ranks(1, trained, tmp_path, True, None, {})
    assert not (tmp_path / "limited" / "metrics.jsonl").exists()  # not even one step
    on_ranks(4, trained, tmp_path, True, None, {"steps": 2})
    on_ranks(2, trained, tmp_path, True, tokenizer, {"zero": OFFLOADED})
    on_ranks(1, trained, tmp_path, False, tokenizer, {})
    losses = [[r["loss"] for r in read_history(Artifact(str(tmp_path / n)))] for n in ("limited", "free")]
    assert len(losses[0]) == 4
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert loss_of(tmp_path / "limited" / "model") == pytest.approx(
        loss_of(tmp_path / "free" / "model"), 1e-5
    )
