"""Losses and gradient norms of a run are those of a loop in plain torch, without engine and shards."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from headwater.llm.training.loop import train_step
from tests.llm.models import small_model
from tests.llm.random_rows import Rows
from tests.llm.ranks import on_ranks
from tests.llm.training.parallel.test_sharding import make

STEPS, CLIP = 3, 1.0
RATE = 1e-3
"""AdamW's first steps are nearly the sign of a gradient. Rounding decides for gradients near 0 and moves
later losses by a share that grows with the rate: the norm by 1.3e-5 at 3e-3, by 1.9e-6 at 1e-3."""
STAGES = (0, 1, 2, 3)


def plain_torch() -> list[list[float]]:
    """[loss, gradient norm] of each step, over all rows of a batch at once."""
    model, rows = copy.deepcopy(small_model()).train(), Rows(8)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, (0.9, 0.95), weight_decay=0.0)
    found = []
    for step in range(STEPS):
        chosen = rows.plan.indices(step)
        ids, mask = torch.from_numpy(rows.ids[chosen]), torch.from_numpy(rows.mask[chosen])[:, 1:] == 1
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[mask], ids[:, 1:][mask])
        optimizer.zero_grad()
        loss.backward()
        found.append([loss.item(), float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP))])
        optimizer.step()
    return found


def through_the_engine(folder: Path) -> None:
    """On two ranks, four rows each in two micro-batches, at every ZeRO stage."""
    for stage in STAGES:
        settings = {"learning_rate": RATE, "clip": CLIP, "weight_decay": 0.0, "schedule": "constant"}
        job, worker = make("adamw", stage, micro_batch=2, warmup_share=0.0, **settings)
        records = [train_step(job, worker, step) for step in range(STEPS)]
        if dist.get_rank() == 0:
            figures = [[record["loss"], record["gradient_norm"]] for record in records]
            (folder / f"{stage}.json").write_text(json.dumps(figures))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    on_ranks(2, through_the_engine, folder)
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_losses_and_gradient_norms_are_those_of_plain_torch(ran: Path, stage: int) -> None:
    expected = plain_torch()
    assert max(norm for _, norm in expected) > CLIP  # clipping has something to do
    found = json.loads((ran / f"{stage}.json").read_text())
    np.testing.assert_allclose(found, expected, rtol=1e-5)
