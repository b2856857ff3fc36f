"""A model that one worker cannot hold trains on four and ends on two."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.model.origins import fresh
from headwater.llm.model.shape import ModelConfig, hf_config, weights_of
from headwater.llm.training import zero
from headwater.llm.training.loop import read_history
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
    "extra": {"stage3_max_live_parameters": FEW, "stage3_max_reuse_distance": FEW},
}
SETTINGS: dict[str, Any] = {
    "steps": 4,
    "micro_batch": 1,
    "schedule": "constant",
    "background_checkpoints": False,
    "zero": SHARDED,
}
OFFLOADED = SHARDED | {"offload_optimizer": "cpu", "offload_parameters": "cpu"}
SHARE = 0.7
"""Memory of a worker, as a share of weights, gradients and moments."""


def large() -> torch.nn.Module:
    return fresh(hf_config(ModelConfig(depth=8, width=384, context=64), 2_048, chat_tokenizer()), 5)


def private_bytes() -> int:
    """What RLIMIT_DATA counts: private memory that may be written to."""
    return int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024


def trained(folder: Path, limited: bool, tokenizer: Folder | None, settings: dict[str, Any]) -> None:
    zero.start()
    run_job(folder / "small", Rows(8), folder / "screen", steps=1)  # imports what is imported late
    if limited:
        state = 16 * sum(weight.size for weight in weights_of(large()))
        limit = private_bytes() + int(SHARE * state)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    job = folder / ("limited" if limited else "free")
    run_job(job, Rows(8), folder / "screen", model=large, tokenizer=tokenizer, **(SETTINGS | settings))


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
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / n / "model") for n in ("limited", "free")]
    for (name, values), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(values, other, rtol=1e-4, atol=1e-5, msg=name)
