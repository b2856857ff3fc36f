"""The data of the report card: metrics, the funnel, samples. Plain data classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Points = Sequence[tuple[float, float]]
"""(step or iteration, value), in order."""


@dataclass(frozen=True)
class Metric:
    """One figure of the table, with what it is worth reading it against."""

    name: str
    value: float | int | str | None
    meaning: str = ""
    """One sentence; empty takes the known explanation of the name (`MEANINGS`)."""
    baseline: float | int | str | None = None
    baseline_name: str = ""
    """What the baseline is, such as `unigram model` or `before RL`."""


@dataclass(frozen=True)
class FunnelStep:
    """One step of cleaning, in order."""

    name: str
    documents: int
    """Documents left after the step."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Reason → documents dropped for it in this step."""


@dataclass(frozen=True)
class Sample:
    """One held-out prompt and its answers; an answer that was not made stays empty."""

    prompt: str
    before: str = ""
    """The SFT model's answer, before reinforcement learning."""
    after: str = ""
    """The answer after reinforcement learning."""
    reference: str = ""
    before_reward: float | None = None
    after_reward: float | None = None


@dataclass(frozen=True)
class StageSummary:
    """One stage of the run: from its manifest."""

    stage: str
    key: str
    seconds: float
    inputs: dict[str, str] = field(default_factory=dict)
    """Input stage → key of the artifact that was read."""


@dataclass(frozen=True)
class Planned:
    """What pretraining was expected to take or come to, and what it did."""

    name: str
    planned: float
    actual: float
    low: float | None = None
    """The interval that was given with it."""
    high: float | None = None


@dataclass
class Report:
    """Everything on the card. Only the title is needed."""

    title: str
    summary: list[str] = field(default_factory=list)
    """Sentences to begin with, one a line."""
    metrics: list[Metric] = field(default_factory=list)
    funnel: list[FunnelStep] = field(default_factory=list)
    """First the documents read (no reasons), then one entry a step."""
    pretrain_loss: Points = ()
    """Training loss in nats a token."""
    pretrain_speed: Points = ()
    """Tokens a second over all workers."""
    validation_bits_per_byte: Points = ()
    unigram_bits_per_byte: float | None = None
    sft_loss: Points = ()
    """Nats an assistant's token."""
    sft_heldout_loss: Points = ()
    reward_loss: Points = ()
    """Bradley-Terry loss a pair; ln 2 is a coin's."""
    reward_accuracy: Points = ()
    """Share of the held-out pairs ordered rightly."""
    rl_reward: Points = ()
    """Reward model's mean score of an iteration's answers."""
    rl_verifiable: Points = ()
    """Verifiable reward, mean of an iteration."""
    rl_kl: Points = ()
    """KL to the SFT model, nats a token."""
    planned: list[Planned] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    stages: list[StageSummary] = field(default_factory=list)
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
