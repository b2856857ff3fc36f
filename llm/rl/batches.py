"""The learner's batches: rollout batches, corrected, compared and cut into this rank's share of each step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from headwater.llm.examples.tasks import Task
from headwater.llm.model.critic import logits_and_values
from headwater.llm.rl.advantages import ESTIMATORS, gae, whitened
from headwater.llm.rl.config import RlConfig
from headwater.llm.rl.correction import beyond, truncated_weights
from headwater.llm.rl.rollouts.journal import RolloutBatch
from headwater.llm.rl.rollouts.sampler import Replayed, Sampler, prompt_order
from headwater.llm.rl.rollouts.turns import sampled
from headwater.llm.rl.rollouts.worker import Rollouts, learner_arrays
from headwater.llm.training.job import StopTraining, Worker
from headwater.llm.training.losses.shared_prompts import answer_losses

HELDOUT_SEED = 1 << 20
Arrays = dict[str, np.ndarray]


def total_reward(rollouts: Rollouts, config: RlConfig) -> np.ndarray:
    """[samples] the reward that the policy is trained to maximise; nan for an answer that was not judged."""
    return config.reward_model_weight * rollouts.model_rewards + config.verifier_weight * rollouts.verified


class RolloutBatches:
    """The learner's batch source: takes rollout batches from a sampler and computes advantages.

    A rollout batch is the batches of `epochs` × `mini_batches` steps. Its answers do not depend on the number
    of learners, and those of a run that does not sample ahead not on that of rollout workers.
    """

    def __init__(
        self,
        config: RlConfig,
        tasks: list[Task],
        heldout: list[Task],
        sampler: Sampler | Replayed,
        pad_id: int,
    ) -> None:
        self.config, self.tasks, self.heldout = config, tasks, heldout
        self.sampler, self.pad_id = sampler, pad_id
        self.plan = prompt_order(config, len(tasks))
        self.held: RolloutBatch | None = None
        self.last: dict[str, float] = {}

    def open(self, worker: Worker) -> None:
        self.worker, self.held = worker, None
        self.sampler.open(worker)

    def batch(self, step: int) -> Arrays:
        self.began, self.waited = time.perf_counter(), 0.0
        number = step // self.config.steps_per_rollout()
        if self.held is None or number != self.held.number:
            self.held = self.sampler.batch(number)
            self.waited = self.sampler.waited
            self.batches = self._prepared(self.held)
        return self.batches[step % self.config.mini_batches]

    def _prepared(self, whole: RolloutBatch) -> list[Arrays]:
        """This learner's share of a rollout batch, one batch for each of its steps."""
        config, group, rollouts = self.config, self.config.group, whole.rollouts
        rewards = total_reward(rollouts, config)
        self.last = self._means(rollouts, rewards, "", list) | {"staleness": self._staleness(whole)}
        if config.kl_estimator == "k1":
            rewards = rewards - config.kl * _log_ratios(rollouts)
        advantages = np.zeros(len(rewards))
        if config.advantage != "gae":
            table = np.nan_to_num(rewards).reshape(-1, group)
            valid = (~np.isnan(rewards)).astype(float).reshape(-1, group)
            advantages = ESTIMATORS[config.advantage](table, valid).reshape(-1)
        own = self.plan.places(self.worker.rank, self.worker.world_size)
        batches = []
        for turn in range(config.mini_batches):
            first = (turn * self.plan.batch + own.start) * group
            samples = range(first, first + len(own) * group)
            chosen = slice(samples.start, samples.stop)
            batch = learner_arrays(rollouts.part(samples), advantages[chosen], self.pad_id)
            batches.append(batch | {"rewards": rewards[chosen]})
        if config.corrects():
            self._correct(batches)
        if config.advantage == "gae":
            self._criticise(batches)
        for batch in batches:
            del batch["rewards"]
        return batches

    def _staleness(self, whole: RolloutBatch) -> float:
        """By how many rollout batches the oldest weights that sampled an answer are behind."""
        return float(whole.number - min(whole.versions) // self.config.steps_per_rollout())

    def _correct(self, batches: list[Arrays]) -> None:
        """Put the learner's log-probabilities in the place of the recorded ones, with weights and masks for
        the difference."""
        cap, bound = self.config.importance_cap, self.config.sequence_bound
        cut = tokens = left_out = answers = 0.0
        for batch in batches:
            recorded = batch["old_logprobs"]
            learner = batch["old_logprobs"] = self._logprobs(batch)
            batch["rollout_logprobs"] = recorded
            answers += float((batch["mask"] != 0).any(axis=1).sum())
            if bound is not None:
                outside = beyond(learner, recorded, batch["mask"], bound)
                batch["mask"] = np.where(outside[:, None], 0, batch["mask"]).astype(np.float32)
                left_out += float(outside.sum())
            if cap is not None:
                weights, over = truncated_weights(learner, recorded, batch["mask"], cap)
                batch["importance"] = weights.astype(np.float32)
                cut += float(over.sum())
            tokens += float(batch["mask"].sum())
        cut, tokens, left_out, answers = self.worker.total([cut, tokens, left_out, answers])
        if bound is not None and answers and left_out == answers:
            raise StopTraining(
                f"every answer of a rollout batch is beyond `rl.sequence_bound` ({bound:g})",
                where=f"rl step {len(self.worker.history)}",
                fix="raise it, or lower `rl.max_staleness` or `rl.learning_rate`",
            )
        self.last |= {"truncated": cut / max(1.0, tokens), "left_out": left_out / max(1.0, answers)}

    def _criticise(self, batches: list[Arrays]) -> None:
        """Give batches the advantages [answers, L+1] of GAE over the tokens of an answer, whitened over the
        answers of all learners. The whole reward comes with the last token."""
        for batch in batches:
            mask, values = batch["mask"], self._values(batch)
            last = np.cumsum(mask, axis=1) == mask.sum(axis=1, keepdims=True)
            given = mask * last * np.nan_to_num(batch["rewards"])[:, None]
            advantages = gae(given, values, mask, self.config.gamma, self.config.gae_lambda)
            returns = (advantages + values).astype(np.float32)
            batch |= {"advantages": advantages, "old_values": values, "returns": returns}
        widths = [batch["mask"].size for batch in batches]
        every = np.concatenate([batch["advantages"].ravel() for batch in batches])
        mask = np.concatenate([batch["mask"].ravel() for batch in batches])
        white = whitened(every, mask, self.worker.total).astype(np.float32)
        for batch, own in zip(batches, np.split(white, np.cumsum(widths)[:-1]), strict=True):
            batch["advantages"] = own.reshape(batch["mask"].shape)

    def _logprobs(self, batch: Arrays) -> np.ndarray:
        """[B, L+1] fp32: the learner's log-probability of each generated token as of now; 0 elsewhere."""
        heat = self.config.temperature

        def logprobs(model: Any, ids: Any, mask: Any) -> Any:
            return -answer_losses(model, ids, mask, temperature=heat) * (mask[:, 1:] != 0)

        return self._passes(batch, logprobs)

    def _values(self, batch: Arrays) -> np.ndarray:
        """[B, L+1] fp32: the value head's at each token, from what comes before it; 0 at the first."""
        return self._passes(batch, lambda model, ids, mask: logits_and_values(model, ids)[1])

    def _passes(self, batch: Arrays, function: Callable[[Any, Any, Any], Any]) -> np.ndarray:
        """[B, L+1] what a function of model, ids and mask says of each token after the first, without
        gradients or dropout.

        In as many passes on every rank as the training step makes: layers may be shared by ranks.
        """
        import torch

        worker, found = self.worker, np.zeros(batch["ids"].shape, np.float32)
        rows = np.arange(len(found))
        worker.engine.module.eval()
        with torch.no_grad():
            for part in np.array_split(rows, self.config.accumulation(worker.world_size)):
                chosen = part if part.size else rows[:1]
                given = (torch.from_numpy(batch[name][chosen]).to(worker.device) for name in ("ids", "mask"))
                found[chosen, 1:] = function(worker.engine.module, *given).float().cpu().numpy()
        worker.engine.module.train()
        return found

    def check(self, step: int, figures: Mapping[str, float]) -> None:
        """Raises StopTraining if the learner's log-probabilities of answers that its own weights sampled are
        not those recorded. `figures`: of the step's forward passes."""
        config = self.config
        if self.last["staleness"] or not config.resumable(step) or (config.lora and config.lora.dropout):
            return
        apart = figures["rollout_mismatch"]
        if config.normalise == "constant":
            apart *= config.max_new_tokens / self.last["answer_tokens"]
        if apart > config.mismatch_limit:
            raise StopTraining(
                "the learner's log-probabilities of answers that its own weights sampled differ from those "
                f"of the rollout workers by {apart:.3g} nats per token, and `rl.mismatch_limit` is "
                f"{config.mismatch_limit:g}",
                where=f"rl step {step}",
                fix="check that both use the same weights, `rl.temperature` and tokenizer; raise "
                "`rl.mismatch_limit` if the difference comes from their number formats",
            )

    def metrics(self) -> dict[str, float]:
        """Means over the rollout batch, and the share of the step so far that the learner waited for it."""
        return self.last | {"rollout_wait": self.waited / max(1e-9, time.perf_counter() - self.began)}

    def describe(self, step: int) -> list[str]:
        """The documents of the prompts of a step's answers."""
        number, turn = divmod(step, self.config.steps_per_rollout())
        if self.held is None or number != self.held.number:
            return [self.tasks[i].origin for i in self.plan.indices(step)]
        first = turn % self.config.mini_batches * self.plan.batch
        return [self.tasks[i].origin for i in self.held.tasks[first : first + self.plan.batch]]

    def evaluate(self, worker: Worker) -> dict[str, float]:
        """Reward on this rank's share of the held-out prompts: one answer each, with fixed seeds."""
        assert isinstance(self.sampler, Sampler), "a replay samples nothing"
        places = range(len(self.heldout))[worker.rank :: worker.world_size]
        tasks = [self.heldout[place] for place in places]
        version = len(worker.history) + 1
        parts = self.sampler.answers(tasks, places, len(self.heldout), HELDOUT_SEED, version)
        rollouts = Rollouts.joined(parts)
        for failure in sorted(set(rollouts.failures)):
            worker.say(f"{rollouts.failures.count(failure)} answers were not judged: {failure}")
        return self._means(rollouts, total_reward(rollouts, self.config), "heldout_", worker.total)

    def _means(
        self,
        rollouts: Rollouts,
        rewards: np.ndarray,
        prefix: str,
        total: Callable[[list[float]], Sequence[float]],
    ) -> dict[str, float]:
        """Over all answers, summed by `total`; rewards over those that were judged."""
        valid = rollouts.valid
        judged = {"reward": rewards, "reward_model": rollouts.model_rewards, "verified": rollouts.verified}
        if len(rollouts.scores) > 1:
            judged |= {f"verified_{name.rpartition(':')[2]}": s for name, s in rollouts.scores.items()}
        sums = [float(values[valid].sum()) for values in judged.values()]
        lengths = [int(sampled(completion).sum()) for completion in rollouts.completions]
        counts = [float(valid.sum()), float(sum(lengths)), float(len(lengths))]
        *totals, count, tokens, answers = total([*sums, *counts])
        means = {f"{prefix}{name}": each / max(1, count) for name, each in zip(judged, totals, strict=True)}
        return means | {f"{prefix}answer_tokens": tokens / answers, f"{prefix}not_judged": answers - count}


def _log_ratios(rollouts: Rollouts) -> np.ndarray:
    """[samples] log-probability (nats) of each answer when sampled, less that under the reference."""
    both = zip(rollouts.completions, rollouts.reference_logprobs, strict=True)
    return np.array([np.nansum(np.array(completion.logprobs) - given) for completion, given in both])
