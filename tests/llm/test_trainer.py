"""One trajectory whatever the sharding, and the same one after a death."""

from __future__ import annotations

import copy
import functools
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.artifact import Folder
from cluster.errors import HeadwaterError
from cluster.session import Session
from llm.batches import BatchPlan
from llm.model import saved_model
from llm.objectives import NextToken
from llm.trainer import TrainConfig, TrainJob, Worker, read_history, train
from llm.zero import ZeroConfig
from tests.llm.models import save_model, small_model

STEPS = 6


class Rows:
    """Rows of a fixed sequence with ragged masks; optionally dies once, before a given step."""

    def __init__(self, batch: int, trace: str = "", deadly_step: int = -1) -> None:
        generator = np.random.default_rng(0)
        self.ids = generator.integers(5, 300, (64, 25))
        self.mask = (np.arange(25) < generator.integers(8, 25, (64, 1))).astype(np.uint8)
        self.plan = BatchPlan(64, batch, seed=1)
        self.trace, self.deadly_step = Path(trace), deadly_step

    def open(self, worker: Worker) -> None:
        self.worker = worker

    def batch(self, step: int) -> dict[str, np.ndarray]:
        if step == self.deadly_step and self.worker.rank == 1 and not self.trace.exists():
            self.trace.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        indices = self.plan.share(step, self.worker.rank, self.worker.world_size)
        return {"ids": self.ids[indices], "mask": self.mask[indices]}

    def metrics(self) -> dict[str, float]:
        return {}


def config(**changes: Any) -> TrainConfig:
    settings = {
        "steps": STEPS,
        "batch": 8,
        "micro_batch": 2,
        "workers": 2,
        "cpus_per_worker": 0.5,
        "precision": "fp32",
        "checkpoint_every": 2,
        "learning_rate": 1e-2,
    }
    return TrainConfig(**(settings | changes))


def run(session: Session, name: str, settings: TrainConfig, model: Folder, source: Rows) -> list[float]:
    job = TrainJob(
        label=name,
        config=settings,
        objective=NextToken(),
        source=source,
        load_model=functools.partial(saved_model, model),
        tokenizer=model,
        output=session.store.artifact("train", name),
    )
    return [record["loss"] for record in train(job, session)]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return save_model(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def reference(ray_cluster: None, start: Folder, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of one worker without sharding."""
    from cluster.store import Store

    with Session(Store(str(tmp_path_factory.mktemp("reference")))) as session:
        settings = config(workers=1, micro_batch=8, zero=ZeroConfig(stage=0))
        return run(session, "reference", settings, start, Rows(8))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_losses_are_the_same_on_two_workers_at_every_zero_stage(
    session: Session, start: Folder, reference: list[float], stage: int
) -> None:
    settings = config(zero=ZeroConfig(stage=stage))  # type: ignore[arg-type]
    losses = run(session, f"zero{stage}", settings, start, Rows(8))
    assert reference[-1] < reference[0] - 0.1  # it does learn
    np.testing.assert_allclose(losses, reference, rtol=1e-5)


def test_muon_follows_one_trajectory_too_and_resumes_on_it(
    session: Session, start: Folder, tmp_path: Path
) -> None:
    settings = {"optimizer": "muon", "learning_rate": 3e-3}
    alone = config(workers=1, micro_batch=8, zero=ZeroConfig(stage=0), **settings)
    expected = run(session, "muon-alone", alone, start, Rows(8))
    assert expected[-1] < expected[0] - 0.1
    sharded = config(zero=ZeroConfig(stage=2), **settings)
    killed = Rows(8, trace=str(tmp_path / "died"), deadly_step=3)
    np.testing.assert_allclose(run(session, "muon-2", sharded, start, killed), expected, rtol=1e-5)
    assert (tmp_path / "died").exists()


def test_a_killed_worker_is_replaced_and_the_losses_are_those_of_an_undisturbed_run(
    session: Session, start: Folder, reference: list[float], tmp_path: Path
) -> None:
    source = Rows(8, trace=str(tmp_path / "died"), deadly_step=3)
    losses = run(session, "killed", config(), start, source)
    assert (tmp_path / "died").exists()
    np.testing.assert_allclose(losses, reference, rtol=1e-5)
    output = session.store.artifact("train", "killed")
    assert [record["step"] for record in read_history(output)] == list(range(STEPS))
    folder = str(output.local("model"))
    opened = AutoModelForCausalLM.from_pretrained(folder)
    assert opened.config.model_type == "qwen3"
    prompt = "What is the news?"
    given = AutoTokenizer.from_pretrained(str(start.local()))(prompt)["input_ids"]
    assert AutoTokenizer.from_pretrained(folder)(prompt)["input_ids"] == given


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_step(
    session: Session, tmp_path: Path
) -> None:
    model = copy.deepcopy(small_model())
    with torch.no_grad():
        next(model.parameters())[7] = float("nan")  # the embedding of one token
    broken = save_model(tmp_path / "broken", model)
    with pytest.raises(HeadwaterError, match=r"nan step \d: the loss is nan"):
        run(session, "nan", config(max_failures=0), broken, Rows(8))


def test_settings_that_cannot_run_are_refused_before_anything_starts(session: Session, start: Folder) -> None:
    with pytest.raises(HeadwaterError, match="do not fit"):
        run(session, "many", config(workers=64, batch=128), start, Rows(128))
    with pytest.raises(HeadwaterError, match="GPUs do not fit"):
        run(session, "gpu", config(gpus_per_worker=1.0), start, Rows(8))
    with pytest.raises(HeadwaterError, match="not a multiple"):
        run(session, "odd", config(batch=10, micro_batch=4), start, Rows(10))
