"""Data classes of the report card: metrics, the cleaning funnel, samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Points = Sequence[tuple[float, float]]
"""(step or iteration, value), in order."""


@dataclass(frozen=True)
class Metric:
    """One figure of the table, with a baseline to compare with."""

    name: str
    value: float | int | str | None
    meaning: str = ""
    """One sentence; if empty, the known explanation of the name (`MEANINGS`)."""
    baseline: float | int | str | None = None
    baseline_name: str = ""
    """Name of the baseline, such as `unigram model` or `before RL`."""
    interval: tuple[float, float] | None = None
    """95 % interval of the value."""


@dataclass(frozen=True)
class FunnelStep:
    """One step of cleaning, in order."""

    name: str
    documents: int
    """Documents left after the step."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Reason → number of documents that the step dropped for it."""


@dataclass(frozen=True)
class Sample:
    """One held-out prompt and its answers; missing answers are empty."""

    prompt: str
    before: str = ""
    """The answer before the last kind of training (`Report.trained`)."""
    after: str = ""
    reference: str = ""
    before_reward: float | None = None
    after_reward: float | None = None


@dataclass(frozen=True)
class GroundedTable:
    """Measures of models on held-out tasks with passages."""

    models: list[str]
    rows: dict[str, list[str]]
    """Measure → the value with its interval of each model."""
    answerable: int
    unanswerable: int
    """Number of tasks of each kind."""


@dataclass(frozen=True)
class GroundedSample:
    """One held-out question with its passages and each model's answer."""

    question: str
    passages: list[str]
    answers: dict[str, str]
    """Model → answer."""
    reference: str


@dataclass(frozen=True)
class StageSummary:
    """One stage of the run, from its manifest."""

    stage: str
    key: str
    seconds: float
    inputs: dict[str, str] = field(default_factory=dict)
    """Input stage → key of the artifact that it read."""


@dataclass(frozen=True)
class Planned:
    """A planned figure of pretraining and its actual value."""

    name: str
    planned: float
    actual: float
    low: float | None = None
    """Lower and upper bound of the plan."""
    high: float | None = None


@dataclass
class Report:
    """All content of the report card. Only the title is required."""

    title: str
    summary: list[str] = field(default_factory=list)
    """Introductory sentences, one per line."""
    metrics: list[Metric] = field(default_factory=list)
    funnel: list[FunnelStep] = field(default_factory=list)
    """The documents read first (no reasons), then one entry per step."""
    pretrain_loss: Points = ()
    """Training loss in nats per token."""
    pretrain_speed: Points = ()
    """Tokens per second over all workers."""
    validation_bits_per_byte: Points = ()
    unigram_bits_per_byte: float | None = None
    sft_loss: Points = ()
    """Nats per assistant token."""
    sft_heldout_loss: Points = ()
    reward_loss: Points = ()
    """Bradley-Terry loss per pair; ln 2 is chance."""
    reward_accuracy: Points = ()
    """Share of the held-out pairs ordered correctly."""
    rl_reward: Points = ()
    """Reward model's mean score per iteration."""
    rl_verifiable: Points = ()
    """Mean verifiable reward per iteration."""
    rl_heldout_verifiable: Points = ()
    """The same over held-out prompts."""
    rl_kl: Points = ()
    """KL to the SFT model, nats per token."""
    planned: list[Planned] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    trained: str = "RL"
    """What lies between the two answers of a sample."""
    benchmarks: tuple[list[str], dict[str, list[str]]] | None = None
    """Columns, and a row of values for every measure."""
    grounded: GroundedTable | None = None
    grounded_samples: list[GroundedSample] = field(default_factory=list)
    stages: list[StageSummary] = field(default_factory=list)
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
