"""Episodes of several turns: the model writes a message, the task's environment replies, the model goes on.

A completion of an episode is all that follows its prompt. Ids that the model sampled stay as they are, in
their places. What an environment wrote was not sampled: its log-probability is nan, and it is never trained
on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from headwater.cluster.errors import HeadwaterError, first_line
from headwater.llm.examples.chat import decode_answer, encode_reply
from headwater.llm.examples.conversations import Conversation
from headwater.llm.examples.tasks import Task
from headwater.llm.examples.template import turn_end
from headwater.llm.inference.base import Completion, Engine, Sampling
from headwater.llm.rl.rewards.judge import Judge, Judged
from headwater.llm.rows.permutation import derived_seed

REPLY_ROLE = "tool"


class Environment(Protocol):
    """What answers the model in a task of several turns: any object with this method."""

    def reply(self, messages: Conversation, task: Task) -> str | None:
        """The next message of the role `tool`, or None if the model's last message is its answer.

        `messages`: the prompt, then the model's and the environment's messages in turn, the model's last.
        """
        ...


@dataclass(frozen=True)
class Turns:
    """How to open a task's environment in a rollout worker, and its limits."""

    open: Callable[[], Any]
    """Returns an environment. An object without `reply` has none: the task has one turn."""
    limit: int
    """Messages of the model."""
    tokens: int
    """After the prompt, replies included."""


@dataclass
class Played:
    """Completions, and what is judged of them. Lists have an entry for each prompt."""

    completions: list[Completion]
    """All that follows the prompt."""
    last: list[Completion]
    """The model's last message, which is its answer; finished by `length` if a limit ended the episode."""
    tasks: list[Task]
    """Each with the replies as its context, if there were any."""
    failures: dict[int, str] = field(default_factory=dict)
    """Of environments that raised, by entry."""

    def judged(self, judge: Judge, answers: Sequence[str]) -> Judged:
        """What the verifiers say. An answer whose environment failed is not judged."""
        found = judge.judge(answers, self.last, self.tasks)
        for place, reason in self.failures.items():
            found.verified[place] = np.nan
            found.failures.append(f"task: {reason}")
        return found


@dataclass
class _Episode:
    prompt: list[int]
    seed: int
    task: Task
    messages: Conversation
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    last: Completion = field(default_factory=lambda: Completion([], [], "length"))
    replies: list[str] = field(default_factory=list)
    open: bool = True

    def write(self, completion: Completion) -> None:
        self.ids += completion.ids
        self.logprobs += completion.logprobs
        self.last = completion

    def reply(self, text: str, ids: list[int]) -> None:
        self.ids += ids
        self.logprobs += [math.nan] * len(ids)
        self.replies.append(text)
        self.messages = [*self.messages, {"role": REPLY_ROLE, "content": text}]


class Player:
    """Plays tasks with an engine; a task without an environment has one turn.

    Raises HeadwaterError if an episode may fill the model's whole context.
    """

    def __init__(self, engine: Engine, turns: Turns | None) -> None:
        found = turns.open() if turns else None
        self.environment: Environment | None = found if hasattr(found, "reply") else None
        self.engine, self.turns = engine, turns
        if self.environment and turns and turns.tokens >= engine.context:
            raise HeadwaterError(
                f"an episode of {turns.tokens} tokens leaves no room for its prompt in the model's context "
                f"of {engine.context}",
                where="rl.max_episode_tokens",
                fix="lower it, or use a model with a longer context",
            )

    def room(self, max_tokens: int) -> int:
        """Tokens that may follow a prompt, with messages of up to `max_tokens`."""
        return max(self.turns.tokens, max_tokens) if self.environment and self.turns else max_tokens

    def play(
        self, tasks: Sequence[Task], prompts: list[list[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> Played:
        """The first message of an episode has its seed, each later one a seed derived from it."""
        if self.environment is None:
            completions = self.engine.generate(prompts, sampling, seeds)
            return Played(completions, completions, list(tasks))
        assert self.turns is not None
        started = zip(prompts, seeds, tasks, strict=True)
        episodes = [_Episode(prompt, seed, task, task.prompt) for prompt, seed, task in started]
        failures: dict[int, str] = {}
        for turn in range(self.turns.limit):
            running = [place for place, episode in enumerate(episodes) if episode.open]
            if not running:
                break
            seeds = [derived_seed(episodes[i].seed, turn) if turn else episodes[i].seed for i in running]
            asked = [episodes[i].prompt + episodes[i].ids for i in running]
            for place, completion in zip(running, self.engine.generate(asked, sampling, seeds), strict=True):
                try:
                    self._turn(episodes[place], completion, sampling.max_tokens, turn)
                except Exception as error:  # noqa: BLE001  a user's environment may raise anything
                    episodes[place].open = False
                    failures[place] = f"{type(error).__name__}: {first_line(error)}"
        return Played(
            [Completion(each.ids, each.logprobs, each.last.finish_reason) for each in episodes],
            [each.last for each in episodes],
            [
                replace(each.task, context="\n\n".join(each.replies)) if each.replies else each.task
                for each in episodes
            ],
            failures,
        )

    def _turn(self, episode: _Episode, completion: Completion, max_tokens: int, turn: int) -> None:
        """Add the model's message, and the reply to it if there is one that fits."""
        assert self.environment is not None and self.turns is not None
        tokenizer = self.engine.tokenizer
        episode.write(completion)
        episode.open = False
        if completion.finish_reason != "stop" or completion.ids[-1] != turn_end(tokenizer):
            return
        said = {"role": "assistant", "content": decode_answer(tokenizer, completion.ids)}
        episode.messages = [*episode.messages, said]
        text = self.environment.reply(episode.messages, episode.task)
        if text is None:
            return
        ids = encode_reply(tokenizer, [m["role"] for m in episode.messages], REPLY_ROLE, text)
        if turn + 1 == self.turns.limit or len(episode.ids) + len(ids) + max_tokens > self.turns.tokens:
            episode.last = replace(completion, finish_reason="length")
            return
        episode.reply(text, ids)
        episode.open = True


def sampled(completion: Completion) -> np.ndarray:
    """[ids] True on what the model sampled."""
    return np.isfinite(np.array(completion.logprobs, float))
