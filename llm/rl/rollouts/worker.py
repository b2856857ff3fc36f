"""Rollouts: answers sampled from the current policy, with everything the learner needs.

`RolloutWorker` is a Ray actor separate from the trainer. It holds an engine with the policy, a frozen copy of
the initial model, and the reward model if there is one. The learner publishes weights on the `WeightBoard`;
a worker fetches the version that it is asked to sample with, so a restarted worker recovers with its next
call.
"""

from __future__ import annotations

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
from headwater.llm.rl.rewards.judge import Judge, Weighted
from headwater.llm.rl.rollouts.turns import Player, Turns, sampled
from headwater.llm.rows.permutation import derived_seed


@dataclass(eq=False)
class Rollouts:
    """Samples for some prompts, group by group. Lists have prompts × group entries."""

    prompts: list[list[int]]
    completions: list[Completion]
    """With several turns also what the environment wrote between them (`llm/rl/rollouts/turns.py`)."""
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
    """Ray actor with the changes of the learner's weights, by version: the steps trained before them."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[int, list[Any]]] = {}
        self._published = 0

    def clear(self) -> None:
        """Forget all: a learner starts. What one before it asked for is refused from now on."""
        self._kept = {}

    def publish(self, version: int, changes: list[Any], oldest: int | None = None) -> None:
        """Keep a version, and those before it from `oldest` on (default: none).

        `changes` is a list with one reference to `adapters.Changes`: Ray would resolve a bare one.
        """
        self._published += 1
        first = version if oldest is None else oldest
        kept = {v: known for v, known in self._kept.items() if first <= v < version}
        self._kept = kept | {version: (self._published, changes)}

    def fetch(self, version: int) -> tuple[int, list[Any]]:
        """The number of its publication, which no other has, and the changes. Raises KeyError if the version
        is not there."""
        return self._kept[version]


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
        turns: Turns | None = None,
        precision: str = "auto",
    ) -> None:
        import torch

        from headwater.llm.inference import device_of
        from headwater.llm.inference.torch_engine import TorchEngine
        from headwater.llm.model.build import reward_model

        context.enter()
        torch.set_num_threads(threads)
        self.engine, self.reference = (
            TorchEngine.load(folder.local(), device=device_of(gpus), precision=precision)
            for folder in (policy, reference)
        )
        self.reward_model: Any = reward_model(reward).eval().to(self.engine.device) if reward else None
        self.judge = Judge(verifiers, verifier_seconds)
        self.player = Player(self.engine, turns)
        self.board, self.sampling, self.held = board, sampling, 0

    def rollout(
        self,
        tasks: Sequence[Task],
        group: int,
        seed: int,
        version: int | None = None,
        places: Sequence[int] | None = None,
        temperature: float | None = None,
        compare: bool = True,
    ) -> Rollouts:
        """`group` answers per task, sampled with weights `version` (None: the initial weights).

        The random numbers of an answer depend on `seed`, on its task's number in `places` (default: from 0
        on) and on its own in the group; not on what else is asked here. Without
        `compare` the reference does not read the answers, and its log-probabilities are 0.
        """
        if version is not None:
            self._load(version)
        room = self.engine.context - self.player.room(self.sampling.max_tokens)
        encoded = [encode_prompt(self.engine.tokenizer, task.prompt, room) for task in tasks]
        prompts = [prompt for prompt in encoded for _ in range(group)]
        heat = self.sampling.temperature if temperature is None else temperature
        of_tasks = [derived_seed(seed, place) for place in places or range(len(tasks))]
        seeds = [derived_seed(of_task, sample) for of_task in of_tasks for sample in range(group)]
        asked = [task for task in tasks for _ in range(group)]
        played = self.player.play(asked, prompts, Sampling(self.sampling.max_tokens, heat), seeds)
        ids = [completion.ids for completion in played.completions]
        answers = [decode_answer(self.engine.tokenizer, last.ids) for last in played.last]
        judged = played.judged(self.judge, answers)
        reference = [[0.0] * len(each) for each in ids]
        if compare:
            reference = self.reference.score(prompts, ids, temperature=heat or 1.0)
        return Rollouts(
            prompts=prompts,
            completions=played.completions,
            reference_logprobs=reference,
            answers=answers,
            model_rewards=self._score([p + c for p, c in zip(prompts, ids, strict=True)]),
            verified=judged.verified,
            scores=judged.scores,
            failures=judged.failures,
        )

    def _load(self, version: int) -> None:
        import ray

        publication, (reference,) = ray.get(self.board.fetch.remote(version))
        if publication != self.held:
            self.engine.follow(ray.get(reference), self.reference)
            self.held = publication

    def _score(self, sequences: list[list[int]]) -> np.ndarray:
        """Reward model scores of whole sequences; 0 without a reward model."""
        if self.reward_model is None:
            return np.zeros(len(sequences))
        from headwater.llm.training.losses.objectives import sequence_rewards

        return np.array(sequence_rewards(self.reward_model, sequences), np.float32)


def learner_arrays(rollouts: Rollouts, advantages: np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
    """Rollouts as the learner's batch, see `losses.Policy`. `advantages` is [samples].

    The mask is 1 on what the model sampled, and 0 all over an answer that was not judged.
    """
    ids, mask, old, reference = [], [], [], []
    for prompt, completion, given, valid in zip(
        rollouts.prompts, rollouts.completions, rollouts.reference_logprobs, rollouts.valid, strict=True
    ):
        blank = np.zeros(len(prompt))
        ids.append(np.array(prompt + completion.ids))
        learnt = sampled(completion) & valid
        mask.append(np.concatenate([blank, learnt]))
        old.append(np.concatenate([blank, np.where(learnt, completion.logprobs, 0)]))
        reference.append(np.concatenate([blank, given]))
    return {
        "ids": pad(ids, pad_id),
        "mask": pad(mask, 0, np.float32),
        "old_logprobs": pad(old, 0, np.float32),
        "reference_logprobs": pad(reference, 0, np.float32),
        "advantages": advantages.astype(np.float32),
    }
