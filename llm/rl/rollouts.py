"""Rollouts: answers sampled from the current policy, with everything the learner needs.

`RolloutWorker` is a Ray actor separate from the trainer. It holds an engine with the policy, a frozen copy of
the initial model, and the reward model if there is one. The learner publishes weights on the `WeightBoard`;
a worker fetches a version when rollouts of that version are requested, so a restarted worker recovers with
its next call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headwater.cluster.runtime.logs import Context
from headwater.cluster.storage.artifact import Folder
from headwater.llm.examples.chat import decode_answer, encode_prompt
from headwater.llm.examples.encoded import pad
from headwater.llm.examples.tasks import Task
from headwater.llm.inference.base import Completion, Sampling
from headwater.llm.rl.judge import Judge, Weighted
from headwater.llm.rows.order import derived_seed


@dataclass
class Rollouts:
    """Samples for some prompts, group by group. Lists have prompts × group entries."""

    prompts: list[list[int]]
    completions: list[Completion]
    reference_logprobs: list[list[float]]
    answers: list[str]
    model_rewards: np.ndarray
    """[samples] scores of the reward model."""
    verified: np.ndarray
    """[samples] scores of the verifiers, 0 to 1; nan where one failed."""
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    """The same of each verifier."""
    failures: list[str] = field(default_factory=list)
    """What the verifiers failed with."""

    @property
    def valid(self) -> np.ndarray:
        """[samples] whether the verifiers judged the answer."""
        return ~np.isnan(self.verified)

    def part(self, samples: Iterable[int]) -> Rollouts:
        """Some of the samples."""
        chosen = np.fromiter(samples, int)
        return Rollouts(
            prompts=[self.prompts[i] for i in chosen],
            completions=[self.completions[i] for i in chosen],
            reference_logprobs=[self.reference_logprobs[i] for i in chosen],
            answers=[self.answers[i] for i in chosen],
            model_rewards=self.model_rewards[chosen],
            verified=self.verified[chosen],
            scores={name: values[chosen] for name, values in self.scores.items()},
            failures=self.failures,
        )

    def judged(self) -> Rollouts:
        """The samples that count."""
        return self.part(np.flatnonzero(self.valid))

    @staticmethod
    def joined(parts: Sequence[Rollouts]) -> Rollouts:
        """The samples of all parts, in order."""
        return Rollouts(
            prompts=[prompt for part in parts for prompt in part.prompts],
            completions=[completion for part in parts for completion in part.completions],
            reference_logprobs=[given for part in parts for given in part.reference_logprobs],
            answers=[answer for part in parts for answer in part.answers],
            model_rewards=np.concatenate([part.model_rewards for part in parts]),
            verified=np.concatenate([part.verified for part in parts]),
            scores={name: np.concatenate([p.scores[name] for p in parts]) for name in parts[0].scores},
            failures=[failure for part in parts for failure in part.failures],
        )


class WeightBoard:
    """Ray actor with the newest changes of the learner's weights, which rollout workers wait for."""

    def __init__(self) -> None:
        self._version = -1
        self._changes: list[Any] = []
        self._changed = asyncio.Condition()

    async def publish(self, version: int, changes: list[Any]) -> None:
        """`changes` is a list with one reference to `adapters.Changes`: Ray would resolve a bare one."""
        async with self._changed:
            self._version, self._changes = version, changes
            self._changed.notify_all()

    async def fetch(self, version: int) -> list[Any]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._version == version)
            return self._changes


class RolloutWorker:
    """Samples, scores and verifies; one call is one worker's share of a step."""

    def __init__(
        self,
        policy: Folder,
        reference: Folder,
        reward: Folder | None,
        verifiers: Sequence[Weighted],
        board: Any,
        sampling: Sampling,
        threads: int,
        context: Context,
        gpus: float = 0.0,
        verifier_seconds: float = 10.0,
    ) -> None:
        import torch

        from headwater.llm.inference import device_of
        from headwater.llm.inference.torch_engine import TorchEngine
        from headwater.llm.model.build import reward_model

        context.enter()
        torch.set_num_threads(threads)
        self.engine = TorchEngine.load(policy.local(), device=device_of(gpus))
        self.reference = TorchEngine.load(reference.local(), device=device_of(gpus))
        self.reward_model: Any = reward_model(reward).eval().to(self.engine.device) if reward else None
        self.judge = Judge(verifiers, verifier_seconds)
        self.board, self.sampling, self.version = board, sampling, -1

    def rollout(
        self,
        tasks: Sequence[Task],
        group: int,
        seed: int,
        version: int | None = None,
        places: Sequence[int] | None = None,
        temperature: float | None = None,
    ) -> Rollouts:
        """`group` answers per task, sampled with weights `version` (None: the initial weights).

        The random numbers of an answer depend on `seed`, on its task's number in `places` (default: from 0
        on) and on its own in the group; not on what else is asked here.
        """
        if version is not None and version != self.version:
            self._load(version)
        room = self.engine.context - self.sampling.max_tokens
        encoded = [encode_prompt(self.engine.tokenizer, task.prompt, room) for task in tasks]
        prompts = [prompt for prompt in encoded for _ in range(group)]
        heat = self.sampling.temperature if temperature is None else temperature
        of_tasks = [derived_seed(seed, place) for place in places or range(len(tasks))]
        seeds = [derived_seed(of_task, sample) for of_task in of_tasks for sample in range(group)]
        completions = self.engine.generate(prompts, Sampling(self.sampling.max_tokens, heat), seeds)
        ids = [completion.ids for completion in completions]
        answers = [decode_answer(self.engine.tokenizer, tokens) for tokens in ids]
        judged = self.judge.judge(answers, completions, [task for task in tasks for _ in range(group)])
        return Rollouts(
            prompts=prompts,
            completions=completions,
            reference_logprobs=self.reference.score(prompts, ids, temperature=heat or 1.0),
            answers=answers,
            model_rewards=self._score([p + c for p, c in zip(prompts, ids, strict=True)]),
            verified=judged.verified,
            scores=judged.scores,
            failures=judged.failures,
        )

    def _load(self, version: int) -> None:
        import ray

        (reference,) = ray.get(self.board.fetch.remote(version))
        self.engine.follow(ray.get(reference), self.reference)
        self.version = version

    def _score(self, sequences: list[list[int]]) -> np.ndarray:
        """Reward model scores of whole sequences; 0 without a reward model."""
        if self.reward_model is None:
            return np.zeros(len(sequences))
        from headwater.llm.training.objectives import sequence_rewards

        return np.array(sequence_rewards(self.reward_model, sequences), np.float32)


def learner_arrays(rollouts: Rollouts, advantages: np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
    """Rollouts as the learner's batch, see `losses.Policy`. `advantages` is [samples].

    An answer that was not judged has a mask of zeros.
    """
    ids, mask, old, reference = [], [], [], []
    for prompt, completion, given, valid in zip(
        rollouts.prompts, rollouts.completions, rollouts.reference_logprobs, rollouts.valid, strict=True
    ):
        blank = np.zeros(len(prompt))
        ids.append(np.array(prompt + completion.ids))
        mask.append(np.concatenate([blank, np.full(len(completion.ids), float(valid))]))
        old.append(np.concatenate([blank, completion.logprobs]))
        reference.append(np.concatenate([blank, given]))
    return {
        "ids": pad(ids, pad_id),
        "mask": pad(mask, 0, np.float32),
        "old_logprobs": pad(old, 0, np.float32),
        "reference_logprobs": pad(reference, 0, np.float32),
        "advantages": advantages.astype(np.float32),
    }
