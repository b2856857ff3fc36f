"""The learner's batches: weights are published, answers collected from the rollout workers, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headwater.llm.examples.tasks import Task
from headwater.llm.model.critic import logits_and_values
from headwater.llm.rl.advantages import ESTIMATORS, gae, whitened
from headwater.llm.rl.config import RlConfig
from headwater.llm.rl.rollouts import Rollouts, learner_arrays
from headwater.llm.rows.order import BatchOrder, RepeatedOrder, ShuffledOrder, derived_seed
from headwater.llm.training.job import Worker

HELDOUT_SEED = 1 << 20


def total_reward(rollouts: Rollouts, config: RlConfig) -> np.ndarray:
    """[samples] the reward that the policy is trained to maximise; nan for an answer that was not judged."""
    return config.reward_model_weight * rollouts.model_rewards + config.verifier_weight * rollouts.verified


def prompt_order(config: RlConfig, prompts: int) -> BatchOrder:
    """Which prompts each step's answers are to."""
    order = ShuffledOrder(prompts, config.batch // config.group, config.seed)
    return RepeatedOrder(order, config.mini_batches, config.epochs, order.batch)


class RolloutBatches:
    """The learner's batch source: publishes weights, collects rollouts, computes advantages.

    A rollout batch is sampled with the weights of its first step, and is the batches of `epochs` ×
    `mini_batches` steps. Its answers do not depend on the number of learners or rollout workers.
    """

    def __init__(
        self,
        config: RlConfig,
        tasks: list[Task],
        heldout: list[Task],
        board: Any,
        rollout_workers: list[Any],
        pad_id: int,
    ) -> None:
        self.config, self.tasks, self.heldout = config, tasks, heldout
        self.board, self.rollout_workers, self.pad_id = board, rollout_workers, pad_id
        self.plan = prompt_order(config, len(tasks))
        self.last: dict[str, float] = {}

    def open(self, worker: Worker) -> None:
        self.worker = worker
        self.published = self.held = -1

    def batch(self, step: int) -> dict[str, np.ndarray]:
        together = self.config.mini_batches
        number = step // (self.config.epochs * together)
        if number != self.held:
            self.batches = self._collect(number, step)
            self.held = number
        return self.batches[step % together]

    def _collect(self, number: int, version: int) -> list[dict[str, np.ndarray]]:
        """This learner's share of a rollout batch, one batch for each of its steps."""
        config, rank, world_size = self.config, self.worker.rank, self.worker.world_size
        together, prompts = config.mini_batches, self.plan.batch
        first = number * config.epochs * together
        own = self.plan.places(rank, world_size)
        places = [turn * prompts + place for turn in range(together) for place in own]
        indices = np.concatenate(
            [self.plan.share(first + turn, rank, world_size) for turn in range(together)]
        )
        rollouts = self._rollout(
            [self.tasks[i] for i in indices],
            places,
            together * prompts,
            config.group,
            derived_seed(config.seed, number),
            version,
        )
        rewards = total_reward(rollouts, config)
        self.last = self._means(rollouts, rewards, "")
        if config.kl_estimator == "k1":
            rewards = rewards - config.kl * _log_ratios(rollouts)
        size = len(own) * config.group
        parts = [range(turn * size, (turn + 1) * size) for turn in range(together)]
        if config.advantage == "gae":
            return self._criticised([(rollouts.part(p), rewards[p.start : p.stop]) for p in parts])
        advantages = self._advantages(rewards, places, together * prompts)
        return [learner_arrays(rollouts.part(p), advantages[p.start : p.stop], self.pad_id) for p in parts]

    def _criticised(self, parts: list[tuple[Rollouts, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """Batches whose advantages [answers, L+1] are those of GAE over the tokens of an answer, whitened
        over the answers of all learners. The whole reward comes with the last token."""
        batches = []
        for rollouts, rewards in parts:
            batch = learner_arrays(rollouts, np.zeros(len(rewards)), self.pad_id)
            mask, values = batch["mask"], self._values(batch["ids"])
            last = np.cumsum(mask, axis=1) == mask.sum(axis=1, keepdims=True)
            given = mask * last * np.nan_to_num(rewards)[:, None]
            advantages = gae(given, values, mask, self.config.gamma, self.config.gae_lambda)
            returns = (advantages + values).astype(np.float32)
            batches.append(batch | {"advantages": advantages, "old_values": values, "returns": returns})
        widths = [batch["mask"].size for batch in batches]
        every = np.concatenate([batch["advantages"].ravel() for batch in batches])
        mask = np.concatenate([batch["mask"].ravel() for batch in batches])
        white = whitened(every, mask, self.worker.total).astype(np.float32)
        for batch, own in zip(batches, np.split(white, np.cumsum(widths)[:-1]), strict=True):
            batch["advantages"] = own.reshape(batch["mask"].shape)
        return batches

    def _values(self, ids: np.ndarray) -> np.ndarray:
        """[B, L+1] fp32: the value head's at each token, from what comes before it; 0 at the first."""
        import torch

        engine, values = self.worker.engine, np.zeros(ids.shape, np.float32)
        engine.module.eval()
        with torch.no_grad():
            for start in range(0, len(ids), self.config.micro_batch):
                rows = slice(start, start + self.config.micro_batch)
                part = torch.from_numpy(ids[rows]).to(self.worker.device)
                values[rows, 1:] = logits_and_values(engine.module, part)[1].cpu().numpy()
        engine.module.train()
        return values

    def _advantages(self, rewards: np.ndarray, places: list[int], prompts: int) -> np.ndarray:
        """[samples] of this learner, from the rewards of all: nan is left out."""
        whole = np.zeros((2, prompts, self.config.group))
        mine = np.stack([np.nan_to_num(rewards), ~np.isnan(rewards)])
        whole[:, places] = mine.reshape(2, len(places), -1)
        everybody = np.array(self.worker.total(whole.ravel().tolist()))
        everybodys, valid = everybody.reshape(whole.shape)
        return ESTIMATORS[self.config.advantage](everybodys, valid)[places].reshape(-1)

    def metrics(self) -> dict[str, float]:
        return self.last

    def describe(self, step: int) -> list[str]:
        """The documents of the prompts of a step's answers."""
        return [self.tasks[i].origin for i in self.plan.indices(step)]

    def evaluate(self, worker: Worker) -> dict[str, float]:
        """Reward on this rank's share of the held-out prompts: one answer each, with fixed seeds."""
        places = range(len(self.heldout))[worker.rank :: worker.world_size]
        tasks = [self.heldout[place] for place in places]
        version = len(worker.history) + 1
        rollouts = self._rollout(tasks, places, len(self.heldout), 1, HELDOUT_SEED, version)
        return self._means(rollouts, total_reward(rollouts, self.config), "heldout_")

    def _rollout(
        self, tasks: list[Task], places: Sequence[int], of: int, group: int, seed: int, version: int
    ) -> Rollouts:
        """Answers to tasks at `places` of `of`, which are spread evenly over all rollout workers."""
        import ray

        if version != self.published:
            changes = self.worker.changes()
            if self.worker.rank == 0:
                ray.get(self.board.publish.remote(version, [ray.put(changes)]))
            self.published = version
        calls = []
        for number, chosen in enumerate(self.rollout_workers):
            share = [i for i, place in enumerate(places) if place * len(self.rollout_workers) // of == number]
            if share:
                asked = [tasks[i] for i in share], group, seed, version, [places[i] for i in share]
                calls.append(chosen.rollout.remote(*asked))
        rollouts = Rollouts.joined(ray.get(calls))
        for failure in sorted(set(rollouts.failures)):
            self.worker.say(f"{rollouts.failures.count(failure)} answers were not judged: {failure}")
        return rollouts

    def _means(self, rollouts: Rollouts, rewards: np.ndarray, prefix: str) -> dict[str, float]:
        """Over the answers of all learners; rewards over those that were judged."""
        valid = rollouts.valid
        judged = {"reward": rewards, "reward_model": rollouts.model_rewards, "verified": rollouts.verified}
        if len(rollouts.scores) > 1:
            judged |= {f"verified_{name.rpartition(':')[2]}": s for name, s in rollouts.scores.items()}
        sums = [float(values[valid].sum()) for values in judged.values()]
        lengths = [len(completion.ids) for completion in rollouts.completions]
        *totals, count, tokens, answers = self.worker.total([*sums, valid.sum(), sum(lengths), len(lengths)])
        means = {f"{prefix}{name}": total / max(1, count) for name, total in zip(judged, totals, strict=True)}
        return means | {f"{prefix}answer_tokens": tokens / answers, f"{prefix}not_judged": answers - count}


def _log_ratios(rollouts: Rollouts) -> np.ndarray:
    """[samples] log-probability (nats) of each answer when sampled, less that under the reference."""
    both = zip(rollouts.completions, rollouts.reference_logprobs, strict=True)
    return np.array([sum(completion.logprobs) - sum(given) for completion, given in both])
