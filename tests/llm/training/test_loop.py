"""The same trajectory for any sharding, and after the death of a worker."""

from __future__ import annotations

import copy
import functools
import io
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.cluster.storage.store import Store
from headwater.llm.model.build import saved_model
from headwater.llm.stages.pretrain import Pretrain, PretrainConfig
from headwater.llm.training.config import TrainConfig
from headwater.llm.training.loop import TrainJob, read_history, train
from headwater.llm.training.losses.objectives import NextToken
from headwater.llm.training.zero_config import ZeroConfig
from tests.llm.jobs import run_job
from tests.llm.models import save_model, small_model
from tests.llm.random_rows import Rows
from tests.llm.ranks import on_ranks

STEPS = 6


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


class Reclaimed(Rows):
    """Once, rank 1 gets SIGTERM, continues for one step and is killed, as in a host preemption."""

    def batch(self, step: int) -> dict[str, np.ndarray]:
        if step == 2 and self.worker.rank == 1 and not self.trace.exists():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(3)  # until Ray next calls into the main thread, where Python hears of it
        return super().batch(step)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return save_model(tmp_path_factory.mktemp("start"))


def alone(folder: Path) -> None:
    run_job(folder, Rows(8), folder / "screen", micro_batch=8, learning_rate=1e-2, zero=ZeroConfig(stage=0))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of one worker without sharding, and without Ray."""
    folder = tmp_path_factory.mktemp("reference")
    on_ranks(1, alone, folder)
    return [record["loss"] for record in read_history(Artifact(str(folder)))]


@pytest.fixture
def watched(ray_cluster: None, tmp_path: Path) -> Iterator[tuple[Session, io.StringIO]]:
    """A session, and what it shows on the screen."""
    screen = io.StringIO()
    store = Store(str(tmp_path / "store"))
    with Session(store, console=Console(file=screen, width=200)) as session:
        yield session, screen


@pytest.mark.soak  # `make test` has it without Ray, in test_interruptions.py
def test_a_worker_that_is_killed_is_replaced_and_the_losses_are_those_of_an_undisturbed_run(
    watched: tuple[Session, io.StringIO], start: Folder, reference: list[float], tmp_path: Path
) -> None:
    session, screen = watched
    source = Rows(8, trace=str(tmp_path / "died"), deadly_step=3, deadly_rank=0)
    settings = config(workers=1, background_checkpoints=False)
    losses = run(session, "alone", settings, start, source)
    np.testing.assert_allclose(losses, reference, rtol=1e-5)
    here, said = ray.util.get_node_ip_address(), screen.getvalue()
    assert f"alone: the process of rank 0 ({here}) died" in said
    assert f"alone: resumes from step 2 with 1 workers on {here}" in said
    assert [record["step"] for record in read_history(session.store.artifact("train", "alone"))] == list(
        range(STEPS)
    )


@pytest.mark.soak
def test_a_worker_that_is_killed_after_a_notice_is_replaced_and_the_losses_are_those_of_an_undisturbed_run(
    watched: tuple[Session, io.StringIO], start: Folder, reference: list[float], tmp_path: Path
) -> None:
    session, screen = watched
    source = Reclaimed(8, trace=str(tmp_path / "died"), deadly_step=3)
    losses = run(session, "killed", config(checkpoint_every=100), start, source)
    assert (tmp_path / "died").exists()
    np.testing.assert_allclose(losses, reference, rtol=1e-5)
    here, said = ray.util.get_node_ip_address(), screen.getvalue()
    assert "killed: rank 1 received SIGTERM: the checkpoint of step 3 is complete" in said
    assert f"killed: the process of rank 1 ({here}) died" in said
    assert f"killed: resumes from step 3 with 2 workers on {here}" in said
    output = session.store.artifact("train", "killed")
    assert [record["step"] for record in read_history(output)] == list(range(STEPS))
    folder = str(output.local("model"))
    opened = AutoModelForCausalLM.from_pretrained(folder)
    assert opened.config.model_type == "qwen3"
    prompt = "What is the news?"
    given = AutoTokenizer.from_pretrained(str(start.local()))(prompt)["input_ids"]
    assert AutoTokenizer.from_pretrained(folder)(prompt)["input_ids"] == given


def beside_gpus(model: Folder) -> torch.nn.Module:
    """As on a host with GPUs: Ray leaves them visible to workers that have reserved none."""
    torch.cuda.is_available = lambda: True
    return saved_model(model)


@pytest.mark.soak  # `make test` has the choice of device in test_devices.py
def test_workers_that_reserved_no_gpus_train_on_cpus_of_a_host_that_has_some(
    session: Session, start: Folder, reference: list[float]
) -> None:
    output = session.store.artifact("train", "beside")
    load = functools.partial(beside_gpus, start)
    job = TrainJob("beside", config(), NextToken(), Rows(8), load, start, output)
    losses = [record["loss"] for record in train(job, session)]
    np.testing.assert_allclose(losses, reference, rtol=1e-5)


@pytest.mark.soak  # `make test` has it without Ray, in test_sharding.py
def test_resume_on_fewer_workers_continues_the_same_trajectory(
    session: Session, start: Folder, reference: list[float], tmp_path: Path
) -> None:
    source = Rows(8, trace=str(tmp_path / "died"), deadly_step=3)
    with pytest.raises(HeadwaterError, match=r"process of rank 1 \(.+\) died.*training failed after 0"):
        run(session, "fewer", config(max_failures=0, zero=ZeroConfig(stage=3)), start, source)
    losses = run(session, "fewer", config(workers=1, zero=ZeroConfig(stage=1)), start, source)
    np.testing.assert_allclose(losses, reference, rtol=1e-5)


@pytest.mark.soak  # `make test` has it without Ray, in test_interruptions.py
def test_a_hung_worker_is_detected_after_the_timeout_and_replaced(
    watched: tuple[Session, io.StringIO], start: Folder, reference: list[float], tmp_path: Path
) -> None:
    session, screen = watched
    source = Rows(8, trace=str(tmp_path / "stood"), deadly_step=3, stand_still=True)
    losses = run(session, "still", config(collective_timeout_s=10), start, source)
    np.testing.assert_allclose(losses, reference, rtol=1e-5)
    assert re.search(
        r"rank 0: waiting for the others, rank 1: in batch \(random_rows.py line \d+\)", screen.getvalue()
    )
    assert re.search(r"still: rank 0 \(.+\) lost its connection to the others: .*Timed", screen.getvalue())


def test_a_loss_that_is_not_a_number_stops_the_run_at_once_and_names_the_step(
    watched: tuple[Session, io.StringIO], tmp_path: Path
) -> None:
    session, screen = watched
    model = copy.deepcopy(small_model())
    with torch.no_grad():
        next(model.parameters())[7] = float("nan")  # the embedding of one token
    broken = save_model(tmp_path / "broken", model)
    with pytest.raises(HeadwaterError, match=r"nan step \d: the loss is nan"):
        run(session, "nan", config(workers=1, max_failures=3), broken, Rows(8))
    assert "resumes" not in screen.getvalue()  # a restart would only repeat it


def test_settings_that_cannot_run_are_refused_before_anything_starts(session: Session, start: Folder) -> None:
    with pytest.raises(HeadwaterError, match="do not fit"):
        run(session, "many", config(workers=64, batch=128), start, Rows(128))
    with pytest.raises(HeadwaterError, match="GPUs do not fit"):
        run(session, "gpu", config(gpus_per_worker=1.0), start, Rows(8))
    with pytest.raises(ValueError, match="is too small for 2 workers"):
        config(batch=1)
    with pytest.raises(ValueError, match="`min_workers` is 3 with 2 workers"):
        config(min_workers=3)


def test_workers_and_sharding_do_not_change_an_artifacts_key() -> None:
    tokens = {"tokenizer": "t", "tokenize": "r"}
    keys = {
        Pretrain(PretrainConfig(workers=workers, micro_batch=1, zero=ZeroConfig(stage=stage))).key(tokens, {})
        for workers, stage in ((1, 0), (8, 3))
    }
    assert len(keys) == 1
