"""The learner's side of sampling: publishes weights, hands prompts to the rollout workers, journals batches.

Rank 0 alone asks the rollout workers for training and passes each rollout batch on to the other ranks; what a
batch is does not depend on the number of learners. An entry of the journal is written before its batch is
trained on. After a restart the entries from the step of the checkpoint on are used as they are, and what was
only being sampled is sampled again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headwater.cluster.errors import HeadwaterError
from headwater.llm.examples.tasks import Task
from headwater.llm.rl.config import RlConfig
from headwater.llm.rl.rollouts.arrivals import Arrivals
from headwater.llm.rl.rollouts.journal import Journal, RolloutBatch, Torn
from headwater.llm.rl.rollouts.worker import Rollouts
from headwater.llm.rows.order import BatchOrder, RepeatedOrder, ShuffledOrder
from headwater.llm.rows.permutation import derived_seed
from headwater.llm.training.job import Worker

BLOCKS = 16
"""Rollout batches before and after one whose prompts are remembered."""


@dataclass(eq=False)
class _Call:
    """What a rollout worker has been asked for."""

    reference: Any
    positions: list[int]
    version: int
    """In steps."""


def prompt_order(config: RlConfig, prompts: int) -> BatchOrder:
    """Which prompts each step's answers are to; of a run that samples ahead, in which order prompts are
    handed out."""
    order = ShuffledOrder(prompts, config.batch // config.group, config.seed)
    return RepeatedOrder(order, config.mini_batches, config.epochs, order.batch)


class Sampler:
    """Rollout batches that are sampled. `journal` None keeps nothing, and so cannot sample ahead."""

    def __init__(
        self,
        config: RlConfig,
        tasks: list[Task],
        board: Any,
        rollout_workers: list[Any],
        journal: Journal | None = None,
    ) -> None:
        self.config, self.tasks, self.order = config, tasks, prompt_order(config, len(tasks))
        self.board, self.rollout_workers, self.journal = board, rollout_workers, journal
        self.each = config.steps_per_rollout()
        self.prompts = self.order.batch * config.mini_batches
        self.waited = 0.0
        """Seconds for which the learner waited for the last batch's answers."""

    def open(self, worker: Worker) -> None:
        import ray

        self.worker, self.published = worker, -1
        self._calls: list[_Call] = []
        self._arrivals: Arrivals[Rollouts] | None = None
        self._failures: list[str] = []
        self._blocks: dict[int, np.ndarray] = {}
        if worker.rank == 0:
            ray.get(self.board.clear.remote())
            if self.journal is not None:
                self.journal.started(len(worker.history), worker.world_size, self.config.arithmetic())

    def batch(self, number: int) -> RolloutBatch:
        """The same on every rank. It is in the journal when this returns."""
        self._publish(number * self.each)
        mine = self._journalled_or_formed(number) if self.worker.rank == 0 else None
        batch, self.waited = self.worker.agree((mine, self.waited))
        assert batch is not None
        return batch

    def answers(
        self, tasks: list[Task], places: Sequence[int], of: int, seed: int, version: int
    ) -> list[Rollouts]:
        """An answer to each of this rank's tasks at `places` of `of`, now. Every rank must call it."""
        import ray

        self._publish(version)
        calls = []
        for worker, share in self._spread(places, of):
            asked, where = [tasks[i] for i in share], [places[i] for i in share]
            calls.append(worker.rollout.remote(asked, 1, seed, version, where, compare=False))
        return list(ray.get(calls))

    # -- on every rank ------------------------------------------------------------------------
    def _publish(self, version: int) -> None:
        import ray

        if version == self.published:
            return
        changes = self.worker.changes()
        if self.worker.rank == 0:
            oldest = min([version, *(call.version for call in self._calls)])
            ray.get(self.board.publish.remote(version, [ray.put(changes)], oldest))
        self.worker.total([0.0])  # no rank asks for weights that are not there yet
        self.published = version

    # -- on rank 0 ----------------------------------------------------------------------------
    def _journalled_or_formed(self, number: int) -> RolloutBatch:
        self.waited = 0.0
        formed = -1 if self._arrivals is None else self._arrivals.formed
        if formed < number or (formed > number and self.journal is None):
            self._resume(number)
        arrivals = self._arrivals
        assert arrivals is not None
        if number < arrivals.formed:
            assert self.journal is not None
            try:
                batch = self.journal.read(number)
            except Torn as torn:
                self.worker.say(f"{torn.what}: {torn.where}; it and the later ones are sampled again")
                self._forget(number)
            else:
                self._hand_out(number)
                return batch
        return self._formed(number)

    def _resume(self, number: int) -> None:
        """Begin after the last entry of the journal that follows on those before `number`."""
        there = self.journal.numbers() if self.journal is not None else set()
        formed = number
        while formed in there:
            formed += 1
        waiting: list[int] = []
        if self.config.max_staleness and formed:
            assert self.journal is not None, "rollout workers sample ahead only with a journal"
            while True:
                try:
                    waiting = self.journal.read(formed - 1).waiting
                    break
                except Torn as torn:
                    if formed <= number:
                        raise
                    formed -= 1
                    self.worker.say(f"{torn.what}: {torn.where}; it is sampled again")
        for torn_or_later in sorted(n for n in there if n >= formed):
            assert self.journal is not None
            self.journal.forget(torn_or_later)
        self._calls = []
        batches = -(-self.config.steps // self.each)
        self._arrivals = Arrivals(self.prompts, self.config.max_staleness, batches, formed, waiting)

    def _forget(self, number: int) -> None:
        assert self.journal is not None
        for later in sorted(self.journal.numbers()):
            if later >= number:
                self.journal.forget(later)
        self._resume(number)

    def _hand_out(self, number: int) -> None:
        """Ask for what may be sampled with the weights before batch `number`."""
        assert self._arrivals is not None
        positions = self._arrivals.hand_out(number)
        version = number * self.each
        for block in sorted({position // self.prompts for position in positions}):
            own = [position for position in positions if position // self.prompts == block]
            places = [position % self.prompts for position in own]
            for worker, share in self._spread(places, self.prompts):
                tasks = [self.tasks[self._task(own[i])] for i in share]
                asked = tasks, self.config.group, self._seed(block), version, [places[i] for i in share]
                reference = worker.rollout.remote(*asked)
                self._calls.append(_Call(reference, [own[i] for i in share], version))

    def _formed(self, number: int) -> RolloutBatch:
        arrivals = self._arrivals
        assert arrivals is not None and arrivals.formed == number
        self._hand_out(number)
        began = time.perf_counter()
        self._collect(wait=False)
        while (taken := arrivals.take()) is None:
            self._collect(wait=True)
        self.waited = time.perf_counter() - began
        if not self.config.max_staleness:  # all of one version: their order is not left to chance
            taken.sort(key=lambda arrived: arrived.position)
        positions = [arrived.position for arrived in taken]
        batch = RolloutBatch(
            number=number,
            positions=positions,
            tasks=[self._task(position) for position in positions],
            versions=[arrived.version * self.each for arrived in taken],
            seeds=[derived_seed(self._seed(p // self.prompts), p % self.prompts) for p in positions],
            waiting=arrivals.waiting(),
            rollouts=Rollouts.joined([arrived.what for arrived in taken]),
        )
        for failure in sorted(set(self._failures)):
            self.worker.say(f"{self._failures.count(failure)} answers were not judged: {failure}")
        self._failures = []
        if self.journal is not None:
            self.journal.write(batch)
        return batch

    def _collect(self, *, wait: bool) -> None:
        """Take what has arrived; with `wait` at least one answer to a call."""
        import ray

        references = [call.reference for call in self._calls]
        if not references:
            if wait:
                raise HeadwaterError("no answers are on their way, and a batch needs more", where="rl")
            return
        count, limit = (1, None) if wait else (len(references), 0)
        done, _ = ray.wait(references, num_returns=count, timeout=limit)
        group = self.config.group
        for call in [call for call in self._calls if call.reference in done]:
            rollouts: Rollouts = ray.get(call.reference)
            self._failures += rollouts.failures
            rollouts.failures = []
            for place, position in enumerate(call.positions):
                own = rollouts.part(range(place * group, (place + 1) * group))
                assert self._arrivals is not None
                self._arrivals.arrive(position, own)
            self._calls.remove(call)

    def _spread(self, places: Sequence[int], of: int) -> list[tuple[Any, list[int]]]:
        """Each rollout worker with the indices of its `places` of `of`; those without any are left out."""
        count = len(self.rollout_workers)
        shares = [[i for i, place in enumerate(places) if place * count // of == n] for n in range(count)]
        return [(worker, share) for worker, share in zip(self.rollout_workers, shares, strict=True) if share]

    def _seed(self, number: int) -> int:
        return derived_seed(self.config.seed, number)

    def _task(self, position: int) -> int:
        """The number of the task at a position of the run's order."""
        number, place = divmod(position, self.prompts)
        if number not in self._blocks:
            steps = range(number * self.each, number * self.each + self.config.mini_batches)
            self._blocks = {n: known for n, known in self._blocks.items() if abs(n - number) < BLOCKS}
            self._blocks[number] = np.concatenate([self.order.indices(step) for step in steps])
        return int(self._blocks[number][place])


class Replayed:
    """The rollout batches of a journal, in the place of a `Sampler`."""

    waited = 0.0

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def open(self, worker: Worker) -> None:
        self.worker = worker

    def batch(self, number: int) -> RolloutBatch:
        """Raises HeadwaterError, which names the file, for an entry that is missing or damaged."""
        mine = self.journal.read(number) if self.worker.rank == 0 else None
        batch = self.worker.agree(mine)
        assert batch is not None
        return batch
