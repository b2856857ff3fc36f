"""Runs of the rl stage's learner that are killed at chosen points, in one process and without Ray.

Rollout workers are real and in this process. What they were asked for arrives in an order of chance.
"""

from __future__ import annotations

import contextlib
import functools
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import ray
import torch.distributed as dist

from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.data_pipeline.tokens.tokenizer import save_tokenizer
from headwater.llm.examples.tasks import Task
from headwater.llm.inference import Sampling
from headwater.llm.rl.config import RlConfig
from headwater.llm.rl.rollouts.journal import Journal
from headwater.llm.rl.rollouts.sampler import Sampler
from headwater.llm.rl.rollouts.worker import RolloutWorker, WeightBoard
from headwater.llm.stages.replay import Difference, replay
from headwater.llm.stages.rl import learner
from headwater.llm.training.job import TrainJob
from headwater.llm.training.state import manager
from headwater.llm.training.telemetry.records import RunRecorder
from tests.llm.actors import Handle, at_once
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.jobs import Screen, work
from tests.llm.models import save_model
from tests.llm.training.parallel.test_sharding import small_reward_model

TASKS = [
    Task(
        f"d{number}", [{"role": "user", "content": f"Write headline {number}."}], "ref", "The council voted."
    )
    for number in range(7)
]


class Killed(BaseException):
    """The process would be gone."""


class Fate:
    """Counts down to the next death. `count` is how many there may be."""

    def __init__(self, seed: int, count: int) -> None:
        self.chance, self.count = random.Random(seed), count
        self.died: Counter[str] = Counter()
        self.written: Counter[int] = Counter()
        """How often each entry of the journal was written."""
        self.live()

    def live(self) -> None:
        self.left = self.chance.randint(1, 25) if self.died.total() < self.count else 1 << 30

    def point(self, name: str) -> bool:
        """Whether the process dies here."""
        self.left -= 1
        if self.left == 0:
            self.died[name] += 1
        return self.left == 0

    def or_die(self, name: str, before: Any, after: bool = False) -> Callable[..., Any]:
        """The function, with a point before it, and one after it."""

        @functools.wraps(before)
        def called(*arguments: Any, **named: Any) -> Any:
            if self.point(f"before {name}"):
                raise Killed
            result = before(*arguments, **named)
            if name == "write":
                self.written[arguments[1].number] += 1
            if after and self.point(f"after {name}"):
                raise Killed
            return result

        return called

    @contextlib.contextmanager
    def everywhere(self) -> Iterator[None]:
        """Points of death in a learner."""
        with contextlib.ExitStack() as stack:
            for owner, name in (
                (Journal, "write"),
                (Sampler, "_hand_out"),
                (manager, "_write"),
                (manager.Checkpoints, "save"),
                (RunRecorder, "add"),
                (manager.Checkpoints, "_commit"),
            ):
                dying = self.or_die(name, getattr(owner, name), after=True)
                stack.enter_context(patch.object(owner, name, dying))
            yield


class MortalWorker:
    """A rollout worker that may be killed in a call: another one makes the call again, as Ray has it."""

    def __init__(self, make: Callable[[], RolloutWorker], fate: Fate) -> None:
        self.make, self.fate, self.worker = make, fate, make()

    def rollout(self, *asked: Any) -> Any:
        made = self.worker.rollout(*asked)
        if self.fate.point("a rollout worker"):
            self.fate.live()
            self.worker = self.make()
            again = self.worker.rollout(*asked)
            assert [c.ids for c in again.completions] == [c.ids for c in made.completions]
            return again
        return made


class World:
    """A folder with a small model, and what runs on it."""

    def __init__(self, folder: Path) -> None:
        at_once()
        self.folder = folder
        if dist.get_rank() == 0:
            save_model(folder / "base")
            save_model(folder / "reward", small_reward_model())
            (folder / "base/tokenizer").mkdir(exist_ok=True)
            save_tokenizer(chat_tokenizer(), folder / "base/tokenizer")
        dist.barrier()
        self.inputs = {"base": Artifact(str(folder / "base"), "base", "key")}

    def config(self, **settings: Any) -> RlConfig:
        return RlConfig.model_validate(
            {"batch": 8, "group": 2, "micro_batch": 4, "precision": "fp32", "max_new_tokens": 4}
            | {"learning_rate": 3e-3, "checkpoint_every": 2, "background_checkpoints": False, "steps": 12}
            | {"workers": dist.get_world_size(), "track": {"tensorboard": False}, "kl": 0.01}
            | settings
        )

    def worker(self, board: Handle, temperature: float = 1.0) -> RolloutWorker:
        base = Folder(self.inputs["base"], "model")
        context: Any = SimpleNamespace(enter=lambda: None)
        return RolloutWorker(
            policy=base,
            reference=base,
            reward=Folder(Artifact(str(self.folder / "reward")), "model"),
            verifiers=[],
            board=board,
            sampling=Sampling(4, temperature),
            threads=1,
            context=context,
        )

    def run(
        self, output: Artifact, config: RlConfig, fate: Fate, counts: tuple[int, ...] = (2,)
    ) -> list[list[int]]:
        """Run to the end, with rollout workers as many as `counts` says after each end of a driver. Returns
        what was trained in each step: the tasks of the step's whole batch."""
        order = random.Random(1)

        def some(references: list[Any], num_returns: int, timeout: float | None) -> tuple[Any, Any]:
            count = order.randint(1 if timeout is None else 0, len(references))
            return order.sample(references, count), []

        ray.wait = some  # type: ignore[assignment]
        trained: dict[int, list[int]] = {}
        board = workers = None
        lives = 0
        while True:
            if board is None:
                board = Handle(WeightBoard())
                make = functools.partial(self.worker, board)
                workers = [Handle(MortalWorker(make, fate)) for _ in range(counts[lives % len(counts)])]
                lives += 1
            assert workers is not None
            sampler = Sampler(config, TASKS, board, workers, Journal(output))
            job = learner(config, self.inputs, output, TASKS, [], sampler)
            check, source = job.check, job.source

            def seen(step: int, figures: Any, check: Any = check, source: Any = source) -> None:
                check(step, figures)
                first = step % config.mini_batches * source.plan.batch
                trained[step] = source.held.tasks[first : first + source.plan.batch]

            job.check = fate.or_die("the step", seen, after=True)
            fate.live()
            try:
                with fate.everywhere():
                    self.work(job)
                break
            except Killed:
                if fate.chance.random() < 0.5:  # the driver, with all it has started
                    board = None
        return [trained[step] for step in range(config.steps)]

    def work(self, job: TrainJob) -> None:
        job.board = Screen(self.folder / "screen")
        work(job)

    def replayed(self, output: Artifact, config: RlConfig, learners: int | None = None) -> Difference | None:
        again = self.folder / "again"
        if dist.get_rank() == 0:
            shutil.rmtree(again, ignore_errors=True)
        dist.barrier()
        return replay(config, self.inputs, output, Artifact(str(again), "rl", "again"), self.work, learners)


def weights(output: Artifact) -> bytes:
    return output.read_bytes("model/model.safetensors")
