"""Rollout workers whose log-probabilities are not the learner's stop a run that takes turns with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.llm.rl.rollouts.journal import Journal
from headwater.llm.rl.rollouts.sampler import Sampler
from headwater.llm.rl.rollouts.worker import RolloutWorker, WeightBoard
from headwater.llm.stages.rl import learner
from headwater.llm.training.telemetry.records import read_history
from tests.llm.actors import Handle
from tests.llm.models import small_engine
from tests.llm.ranks import on_ranks
from tests.llm.rl.mortal import TASKS, World

CASES: dict[str, dict[str, Any]] = {
    "right": {},
    "constant": {"normalise": "constant"},
    "temperature": {},
    "temperature, constant": {"normalise": "constant"},
    "weights": {},
    "weights, later": {"max_staleness": 1},
    "temperature, allowed": {"mismatch_limit": 10.0},
}


def mismatched(folder: Path) -> None:
    world, told = World(folder), {}
    for name, settings in CASES.items():
        config = world.config(**({"steps": 3} | settings))
        output, board = Artifact(str(folder / name), "rl", name), Handle(WeightBoard())
        worker: RolloutWorker = world.worker(board, 0.4 if "temperature" in name else 1.0)
        if "weights" in name:
            worker.engine = worker.player.engine = small_engine(1)
            worker._load = lambda version: None  # type: ignore[method-assign]
        sampler = Sampler(config, TASKS, board, [Handle(worker)], Journal(output))
        try:
            world.work(learner(config, world.inputs, output, TASKS, [], sampler))
            told[name] = ""
        except HeadwaterError as error:
            told[name] = str(error)
        told[f"{name}: apart"] = [record["rollout_mismatch"] for record in read_history(output)]
    (folder / "told.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("mismatch")
    on_ranks(1, mismatched, folder)
    return dict(json.loads((folder / "told.json").read_text()))


@pytest.mark.parametrize("name", ["right", "constant"])
def test_equal_weights_and_temperature_are_equal_log_probabilities(told: dict[str, Any], name: str) -> None:
    assert told[name] == ""
    assert len(told[f"{name}: apart"]) == 3 and max(told[f"{name}: apart"]) < 1e-4


@pytest.mark.parametrize("name", ["temperature", "temperature, constant", "weights", "weights, later"])
def test_another_temperature_and_other_weights_stop_the_first_step(told: dict[str, Any], name: str) -> None:
    assert "rl step 0" in told[name]
    assert "rl.mismatch_limit" in told[name] and "rl.temperature" in told[name]
    assert told[f"{name}: apart"] == [], "no step was made"


def test_the_limit_is_a_setting(told: dict[str, Any]) -> None:
    assert told["temperature, allowed"] == ""
    assert min(told["temperature, allowed: apart"]) > 0.1
