"""Actors without a GPU reservation compute on CPUs, although Ray leaves GPUs visible to them."""

from __future__ import annotations

import pytest
import torch

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.hardware.precision import resolve_precision
from headwater.llm.inference import Sampling, load_engine
from headwater.llm.inference.pool import _Completer
from headwater.llm.training import engine as training_engine
from headwater.llm.training.state.manager import random_state
from headwater.llm.training.zero_config import ZeroConfig
from headwater.serving.batch.worker import BatchWorker
from headwater.serving.config import AppConfig, ReplicaRange
from headwater.serving.replicas import EngineReplica
from tests.llm.models import save_model


@pytest.fixture
def gpus_in_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*_: object) -> None:
        raise AssertionError("a GPU was asked for")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", touched)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return save_model(tmp_path_factory.mktemp("model"))


def test_engines_run_on_the_device_they_reserved(gpus_in_sight: None, model: Folder) -> None:
    made = {
        "engine": load_engine(model.local()),
        "pool": _Completer(model, Sampling(1), 0.0)._engine,
        "batch": BatchWorker("", Artifact(str(model.local())), model.artifact, 1, 1)._engine,
        "replica": EngineReplica(AppConfig(model=str(model.local()))).engine.engine,
    }
    assert {name: engine.device.type for name, engine in made.items()} == dict.fromkeys(made, "cpu")  # type: ignore[attr-defined]
    with pytest.raises((AssertionError, RuntimeError)):  # here is none in truth
        EngineReplica(AppConfig(model=str(model.local()), engine=ReplicaRange(gpus=1.0)))


def test_training_without_gpus_uses_a_cpus_precision(gpus_in_sight: None) -> None:
    assert resolve_precision("auto") in ("fp32", "bf16")
    assert resolve_precision("auto", 1.0) == "fp16"
    with pytest.raises(HeadwaterError, match="fp16 needs GPUs"):
        training_engine.check_means(ZeroConfig(), "fp16")
    training_engine.check_means(ZeroConfig(), "fp16", 1.0)
    assert random_state()["cuda"] == []
