"""The rl learner on several ranks is one trajectory, whatever their number, with several steps a rollout."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.examples.tasks import Task
from headwater.llm.inference import Completion
from headwater.llm.rl.batches import RolloutBatches
from headwater.llm.rl.config import RlConfig
from headwater.llm.rl.rollouts.sampler import Sampler
from headwater.llm.rl.rollouts.worker import Rollouts, WeightBoard
from headwater.llm.training import engine as training_engine
from headwater.llm.training.health.watchdog import Watchdog
from headwater.llm.training.job import TrainJob, Worker
from headwater.llm.training.loop import run_steps
from headwater.llm.training.state.manager import Checkpoints, find
from tests.llm.actors import Handle, at_once
from tests.llm.jobs import Screen
from tests.llm.models import small_model
from tests.llm.ranks import on_ranks

TASKS = [Task(f"d{number}", []) for number in range(10)]
STEPS = 8


class Placed:
    """A rollout worker whose answers depend on seed and place alone; one of them cannot be judged."""

    def rollout(self, tasks: list[Task], group: int, seed: int, version: int, places: list[int]) -> Rollouts:
        made: dict[str, list[Any]] = {"ids": [], "prompts": [], "rewards": [], "verified": []}
        for task, place in zip(tasks, places, strict=True):
            random = np.random.default_rng([seed % 1000, place])
            for number in range(group):
                made["prompts"].append([10 + int(task.origin[1:]), 11, 12])
                made["ids"].append(random.integers(40, 60, random.integers(1, 4)).tolist())
                made["rewards"].append(random.random())
                made["verified"].append(np.nan if (place, number) == (1, 1) else 0.0)
        completions = [Completion(ids, [-6.0] * len(ids), "stop") for ids in made["ids"]]
        reference = [[-6.1] * len(ids) for ids in made["ids"]]
        answers = [""] * len(completions)
        verified = np.array(made["verified"])
        return Rollouts(made["prompts"], completions, reference, answers, np.array(made["rewards"]), verified)


def train(folder: Path, stop_at: int, settings: dict[str, Any]) -> None:
    """On every rank: go on to the end, or fail as if killed after a step."""
    at_once()
    rank, world_size = dist.get_rank(), dist.get_world_size()
    config = RlConfig(
        **(
            {"batch": 8, "group": 2, "micro_batch": 2, "steps": STEPS, "precision": "fp32"}
            | {"learning_rate": 3e-4, "advantage": "rloo", "checkpoint_every": 3, "workers": world_size}
            | settings
        )
    )
    sampler = Sampler(config, TASKS, Handle(WeightBoard()), [Handle(Placed())] * 3)
    source = RolloutBatches(config, TASKS, [], sampler, 7)
    engine = training_engine.build(copy.deepcopy(small_model()), config, world_size)
    output = Artifact(str(folder), "rl", "key")
    job = TrainJob("rl", config, config.objective(), source, small_model, Folder(output, "model"), output)
    job.board = Screen(folder.parent / "screen")
    worker = Worker(rank, world_size, engine, engine.device, say=job.board.say)
    checkpoints = Checkpoints(job, worker)
    start = checkpoints.restore()
    source.open(worker)
    take = source.batch

    def batch(step: int) -> dict[str, np.ndarray]:
        if step == stop_at:
            checkpoints.settle()
            raise KeyboardInterrupt
        return take(step)

    source.batch = batch  # type: ignore[method-assign]
    with Watchdog(worker, output, 60.0) as watchdog:
        try:
            run_steps(job, worker, checkpoints, start, watchdog)
        except KeyboardInterrupt:
            pass
        else:
            if rank == 0:
                losses = [record["loss"] for record in worker.history]
                (folder / "told.json").write_text(json.dumps({"start": start, "losses": losses}))
    checkpoints.close()


def told(folder: Path, learners: int, stop_at: int = -1, **settings: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    on_ranks(learners, train, folder, stop_at, settings)
    return dict(json.loads((folder / "told.json").read_text())) if stop_at < 0 else {}


REPEATED = {"mini_batches": 2, "epochs": 2}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One learner, four steps a rollout."""
    return told(tmp_path_factory.mktemp("alone") / "rl", 1, **REPEATED)


@pytest.mark.parametrize("learners", [2, 3])
def test_any_number_of_learners_is_one_trajectory(
    alone: dict[str, Any], tmp_path: Path, learners: int
) -> None:
    found = told(tmp_path / "rl", learners, **REPEATED)
    assert len(set(found["losses"])) == STEPS
    np.testing.assert_allclose(found["losses"], alone["losses"], rtol=1e-5, atol=1e-6)  # some are near 0


def test_a_run_that_stops_within_a_rollout_goes_on_from_before_it(
    alone: dict[str, Any], tmp_path: Path
) -> None:
    told(tmp_path / "rl", 1, stop_at=6, **REPEATED)
    whole, _ = find(Artifact(str(tmp_path / "rl"), "rl", "key"))
    assert [stored.step for stored in whole] == [4]  # one was due after 3 steps, and again after 6
    found = told(tmp_path / "rl", 1, **REPEATED)
    assert found["start"] == 4
    assert found["losses"] == alone["losses"]
