"""Any ZeRO stage on any number of workers is one trajectory, straight through and across a checkpoint.

The ranks are processes of their own without Ray; `test_trainer.py` and `test_several_hosts.py` go through it.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.rl.losses import Policy
from headwater.llm.training import engine as training_engine
from headwater.llm.training.config import FineTuneConfig
from headwater.llm.training.loop import BatchSource, TrainJob, Worker, train_step
from headwater.llm.training.losses.objectives import (
    BradleyTerry,
    NextToken,
    Objective,
    PreferenceOptimisation,
)
from headwater.llm.training.state import elements
from tests.llm.models import small_model
from tests.llm.random_rows import Rows
from tests.llm.ranks import on_ranks

STEPS, SAVED_AT = 6, 3
CASES = list(itertools.product(("adamw", "muon"), (0, 1, 2, 3)))
TOLERANCE = {"adamw": 1e-5, "muon": 5e-5}
"""Of losses. DeepSpeed's Muon orthogonalises in bf16, which makes a last bit of a gradient one of 256 parts
of an update: 1.5e-5 after six steps where the CPU multiplies in bf16 itself (AMX), less where it does not."""

OTHER = [("muon_momentum", 0.95), ("muon_momentum_schedule", None), ("weight_decay_schedule", "constant")]
"""Settings that change a run of Muon."""


class Pairs(Rows):
    """Chosen rows, and the same in reverse as the rejected ones."""

    def batch(self, step: int) -> dict[str, np.ndarray]:
        rows = super().batch(step)
        mask = np.ones_like(rows["ids"])
        return {
            "chosen": rows["ids"],
            "chosen_mask": mask,
            "rejected": rows["ids"][:, ::-1].copy(),
            "rejected_mask": mask,
        }


class JudgedPairs(Pairs):
    """Pairs whose second halves are the answers, with log-probabilities of a reference model."""

    def batch(self, step: int) -> dict[str, np.ndarray]:
        pairs = super().batch(step)
        count, length = pairs["chosen"].shape
        answers = np.broadcast_to(np.arange(length) >= length // 2, (count, length)).astype(np.uint8)
        return {
            "chosen": pairs["chosen"],
            "chosen_mask": answers,
            "rejected": pairs["rejected"],
            "rejected_mask": answers,
            "reference_chosen": np.full(count, -70.0, np.float32),
            "reference_rejected": -80.0 + pairs["chosen"][:, 0].astype(np.float32) / 30,
        }


class Answers(Rows):
    """Rows as if they had been sampled, good and bad ones by turns."""

    def batch(self, step: int) -> dict[str, np.ndarray]:
        rows = super().batch(step)
        advantages = np.where(rows["ids"][:, 0] % 2, 1.0, -1.0).astype(np.float32)
        logprobs = np.full(rows["ids"].shape, -5.0, np.float32)
        more = {"old_logprobs": logprobs, "reference_logprobs": logprobs - 0.1, "advantages": advantages}
        return rows | {"mask": rows["mask"].astype(np.float32)} | more


@functools.cache
def small_reward_model() -> torch.nn.Module:
    from transformers import Qwen3ForSequenceClassification

    torch.manual_seed(0)
    config: Any = copy.deepcopy(small_model().config)
    config.num_labels = 1
    return Qwen3ForSequenceClassification(config)


OBJECTIVES: dict[str, tuple[Objective, type[Rows], Callable[[], torch.nn.Module]]] = {
    "next token": (NextToken(), Rows, small_model),
    "next token and z-loss": (NextToken(z_loss=1e-2), Rows, small_model),
    "preferences": (PreferenceOptimisation(0.1), JudgedPairs, small_model),
    "pairs": (BradleyTerry(), Pairs, small_reward_model),
    "policy": (Policy(kl=0.05), Answers, small_model),
}


def make(
    optimizer: str,
    stage: int,
    *,
    objective: str = "next token",
    micro_batch: int = 2,
    model: Any = None,
    **more: Any,
) -> tuple[TrainJob, Worker]:
    """A job on the ranks of this group, and this rank's worker with a fresh engine."""
    minimised, rows, usual_model = OBJECTIVES[objective]
    rank, world_size = dist.get_rank(), dist.get_world_size()
    settings: dict[str, Any] = {
        "steps": STEPS,
        "batch": 8,  # three workers share it unevenly
        "micro_batch": micro_batch,
        "workers": world_size,
        "zero": {"stage": stage},
        "precision": "fp32",
        "optimizer": optimizer,
        "learning_rate": 3e-3,
        "muon_momentum": 0.9,  # not the default: every stage must be told
        "weight_decay": 2.0,
        "weight_decay_schedule": "linear",
    }
    if optimizer == "muon":
        settings["muon_momentum_schedule"] = {"start": 0.5, "warmup": 4, "end": 0.7, "cooldown": 2}
    config = FineTuneConfig(**(settings | more))
    start = model() if model else copy.deepcopy(usual_model())
    engine = training_engine.build(start, config, world_size)
    nowhere = Artifact("/nowhere")
    source: BatchSource = rows(8)
    job = TrainJob("test", config, minimised, source, usual_model, Folder(nowhere, "model"), nowhere)
    worker = Worker(rank, world_size, engine, engine.device)
    source.open(worker)
    return job, worker


def train_and_save(folder: Path) -> None:
    """On two ranks: every case from start to end, with a checkpoint half-way."""
    for optimizer, stage in CASES:
        job, worker = make(optimizer, stage)
        losses = []
        for step in range(STEPS):
            losses.append(train_step(job, worker, step)["loss"])
            if step + 1 == SAVED_AT:
                save(worker, folder / f"{optimizer}-{stage}", {"step": step + 1, "losses": losses})
        record(folder / f"{optimizer}-{stage}.json", losses)


def train_alone(folder: Path) -> None:
    """On one rank: the trajectories that all others must follow."""
    for optimizer in ("adamw", "muon"):
        job, worker = make(optimizer, 0, micro_batch=8)
        record(folder / f"{optimizer}.json", [train_step(job, worker, step)["loss"] for step in range(STEPS)])
    for name, value in OTHER:
        job, worker = make("muon", 0, micro_batch=8, **{name: value})
        record(folder / f"other-{name}.json", [train_step(job, worker, n)["loss"] for n in range(STEPS)])
    load_and_train(folder, 0)
    every_objective(folder, stage=0, micro_batch=8)
    load_what_is_not_whole(folder)


def load_what_is_not_whole(folder: Path) -> None:
    """On one rank: a checkpoint without its second rank's file, and a folder that is none."""
    hole, nothing = folder / "hole", folder / "nothing"
    hole.mkdir()
    nothing.mkdir()
    for path in (folder / "adamw-2").iterdir():
        if not path.name.startswith("rank-00001"):
            (hole / path.name).write_bytes(path.read_bytes())
    _, worker = make("adamw", 2)
    for broken in (hole, nothing):
        with pytest.raises(HeadwaterError) as refusal:
            elements.load(worker.engine, broken)
        (folder / f"{broken.name}.txt").write_text(str(refusal.value))


def train_in_threes(folder: Path) -> None:
    load_and_train(folder, 1)
    every_objective(folder, stage=3, micro_batch=1)


def load_and_train(folder: Path, other_stage: int) -> None:
    """Every case from its checkpoint to the end, at ZeRO stages so many further on."""
    for optimizer, stage in CASES:
        job, worker = make(optimizer, (stage + other_stage) % 4)
        state = elements.load(worker.engine, folder / f"{optimizer}-{stage}")
        name = f"{optimizer}-{stage}-on-{worker.world_size}-at-{(stage + other_stage) % 4}"
        save(worker, folder / name, state)
        losses = list(state["losses"])
        for step in range(state["step"], STEPS):
            losses.append(train_step(job, worker, step)["loss"])
        record(folder / f"{name}.json", losses)


def every_objective(folder: Path, *, stage: int, micro_batch: int) -> None:
    for objective in OBJECTIVES:
        job, worker = make("adamw", stage, objective=objective, micro_batch=micro_batch)
        losses = [train_step(job, worker, step)["loss"] for step in range(SAVED_AT)]
        record(folder / f"{objective}-on-{worker.world_size}.json", losses)


def save(worker: Worker, folder: Path, state: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    elements.save(worker.engine, folder, state)
    dist.barrier()


def record(path: Path, losses: list[float]) -> None:
    if dist.get_rank() == 0:
        path.write_text(json.dumps(losses))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints and losses of two workers in every case, then of one and of three that went on."""
    folder = tmp_path_factory.mktemp("checkpoints")
    on_ranks(2, train_and_save, folder)
    on_ranks(1, train_alone, folder)
    on_ranks(3, train_in_threes, folder)
    return folder


def losses(path: Path) -> list[float]:
    return list(json.loads(path.read_text()))


@pytest.mark.parametrize(("optimizer", "stage"), CASES)
def test_losses_are_the_same_on_two_workers_at_every_zero_stage(
    saved: Path, optimizer: str, stage: int
) -> None:
    alone = losses(saved / f"{optimizer}.json")
    assert alone[-1] < alone[0] - 0.05  # it does learn
    np.testing.assert_allclose(losses(saved / f"{optimizer}-{stage}.json"), alone, rtol=TOLERANCE[optimizer])


@pytest.mark.parametrize("name", [name for name, _ in OTHER])
def test_momentum_and_weight_decay_are_those_of_the_step(saved: Path, name: str) -> None:
    """With another value, only the first loss, before any update, is the same; see also `make`."""
    told, other = losses(saved / "muon.json"), losses(saved / f"other-{name}.json")
    assert other[0] == told[0]
    apart = [abs(a / b - 1) for a, b in zip(told, other, strict=True)]
    assert max(apart) > 1e-4  # more than ZeRO stages may differ


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_row_counts_once_when_three_workers_share_eight_one_at_a_time(
    saved: Path, objective: str
) -> None:
    alone = losses(saved / f"{objective}-on-1.json")
    assert len({round(loss, 6) for loss in alone}) == SAVED_AT
    np.testing.assert_allclose(losses(saved / f"{objective}-on-3.json"), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("optimizer", "stage"), CASES)
@pytest.mark.parametrize(("world_size", "other_stage"), [(1, 0), (3, 1)])
def test_resume_on_fewer_or_more_workers_continues_the_same_trajectory(
    saved: Path, optimizer: str, stage: int, world_size: int, other_stage: int
) -> None:
    name = f"{optimizer}-{stage}-on-{world_size}-at-{(stage + other_stage) % 4}"
    undisturbed = losses(saved / f"{optimizer}-{stage}.json")
    np.testing.assert_allclose(losses(saved / f"{name}.json"), undisturbed, rtol=1e-5)


@pytest.mark.parametrize(("optimizer", "stage"), CASES)
def test_resharding_and_rewriting_a_checkpoint_preserves_its_bits(
    saved: Path, optimizer: str, stage: int
) -> None:
    original = whole(saved / f"{optimizer}-{stage}")
    again = whole(saved / f"{optimizer}-{stage}-on-3-at-{(stage + 1) % 4}")
    assert original.keys() == again.keys()
    kinds = {name.rsplit("/", 1)[1] for name in original}
    muon = {"weights", "exp_avg", "exp_avg_sq", "momentum_buffer"}
    assert kinds == (muon if optimizer == "muon" else muon - {"momentum_buffer"})
    for name, values in original.items():
        assert values.any()
        np.testing.assert_array_equal(values, again[name], err_msg=name)


@pytest.mark.parametrize(("optimizer", "stage"), CASES)
def test_step_and_the_optimizers_own_count_survive(saved: Path, optimizer: str, stage: int) -> None:
    for name in (f"{optimizer}-{stage}", f"{optimizer}-{stage}-on-3-at-{(stage + 1) % 4}"):
        state = json.loads((saved / name / elements.STATE).read_text())
        assert state["state"]["step"] == SAVED_AT
        assert state["optimizer_steps"] == SAVED_AT  # AdamW's bias correction depends on it


def test_no_element_is_written_twice(saved: Path) -> None:
    parameters = sum(p.numel() for p in small_model().parameters())
    for name in [f"{optimizer}-{stage}" for optimizer, stage in CASES]:
        sizes = {key: value.size for key, value in whole(saved / name).items()}
        assert sum(size for key, size in sizes.items() if key.endswith("/weights")) == parameters


def whole(folder: Path) -> dict[str, np.ndarray]:
    """`parameter/kind` → all its elements; fails where a stretch is missing or there twice."""
    from safetensors.numpy import load_file

    pieces: dict[str, dict[int, np.ndarray]] = {}
    for path in folder.glob("*.safetensors"):
        for name, values in load_file(path).items():
            key, start = name.rsplit("/", 1)
            assert int(start) not in pieces.setdefault(key, {})
            pieces[key][int(start)] = values
    joined = {}
    for key, runs in pieces.items():
        ordered = sorted(runs.items())
        ends = [start + values.size for start, values in ordered]
        assert [start for start, _ in ordered] == [0, *ends[:-1]], key
        joined[key] = np.concatenate([values for _, values in ordered])
    return joined


@pytest.mark.parametrize(
    ("checkpoint_folder", "words"),
    [
        ("hole", r"only \d+ of \d+ elements of model\..+ are stored"),
        ("nothing", "another version of Headwater"),
    ],
)
def test_an_incomplete_checkpoint_is_refused_naming_the_missing_part(
    saved: Path, checkpoint_folder: str, words: str
) -> None:
    assert re.search(words, (saved / f"{checkpoint_folder}.txt").read_text())
