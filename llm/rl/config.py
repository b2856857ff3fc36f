"""Settings of the rl stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from headwater.cluster.runtime.needs import Actors, Need
from headwater.llm.examples.own_data.source import DataSources
from headwater.llm.examples.tasks import Task, arithmetic_tasks
from headwater.llm.rl.losses import Critic, Policy
from headwater.llm.rl.plugins import Plugin, is_plugin, read_plugin
from headwater.llm.rl.verifiers import HEADLINE, VERIFIERS
from headwater.llm.training.config import FineTuneConfig

TASKS: dict[str, tuple[Callable[[], Iterable[Task]], str]] = {"arithmetic": (arithmetic_tasks, "number")}
"""Tasks made by a program, each with its verifier."""


class RlConfig(FineTuneConfig):
    """Settings of reinforcement learning."""

    learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate of AdamW."""
    schedule: Literal["wsd", "cosine", "constant"] = "constant"
    """Learning rate after warmup, see `pretrain.schedule`."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of the matrices."""
    prompts: DataSources | None = None
    """Own prompts instead of the headline task: files, folders, globs, `s3://` and `hf://` names, or sections
    with `files`. A right answer beside a prompt is what a verifier compares with. A tenth is held out."""
    task: str | None = None
    """Tasks made by a program instead of the headline task: `arithmetic` (sums of two numbers of up to two
    digits), or `FILE.py:FUNCTION`, a function of your own that yields pairs of a prompt and a right answer,
    see docs/extending.md. A tenth is held out."""
    verifier: str | None = None
    """What scores an answer from 0 to 1: a name of `llm/rl/verifiers.py`, or `FILE.py:FUNCTION`, a function
    of your own, see docs/extending.md. Default: `headline` for the headline task, `citations` for the tasks
    of a section `grounded`, `number` for arithmetic, none for prompts and tasks of your own."""
    rewards: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Several verifiers in the place of `verifier`, with their weights: the score is the weighted mean."""
    verifier_seconds: float = Field(10.0, gt=0)
    """Time limit of a verifier of your own for one answer. An answer that a verifier fails on is left out of
    its batch."""
    batch: int = Field(64, ge=1)
    """Sampled answers per step: prompts × `group`."""
    mini_batches: int = Field(1, ge=1)
    """Steps whose answers are sampled at once, with the same weights: a rollout batch has `batch` ×
    `mini_batches` answers."""
    epochs: int = Field(1, ge=1)
    """Times that the steps of a rollout batch are made; the clip acts from the second step on."""
    group: int = Field(8, ge=2)
    """Answers sampled per prompt and compared with each other. Larger groups give less noisy advantages."""
    advantage: Literal["grpo", "dr_grpo", "rloo", "reinforce_pp", "gae"] = "grpo"
    """Advantage estimator: `grpo` normalises by the group's deviation, `dr_grpo` only subtracts its mean,
    `rloo` subtracts the others' mean, `reinforce_pp` normalises by the deviation over the rollout batch.
    `gae` (PPO) compares each token with what a value head expected, and ignores groups."""
    gamma: float = Field(1.0, ge=0, le=1)
    """Discount per token, for `gae`."""
    gae_lambda: float = Field(0.95, ge=0, le=1)
    """Weight of later tokens in an advantage, for `gae`: 0 trusts the value head alone, 1 the rewards."""
    value_weight: float = Field(0.5, ge=0)
    """Weight of the value head's loss, for `gae`."""
    value_clip: float = Field(0.2, gt=0)
    """How far a value may move from that at sampling before its loss stops rewarding it, for `gae`, in units
    of the reward."""
    loss: Literal["ppo_clip", "gspo", "cispo"] = "ppo_clip"
    """Policy loss: `ppo_clip` clips the ratio of each token, `gspo` that of each answer (with a
    `policy_clip` of about 3e-4, and `normalise: sequences`), `cispo` clips the weight of each token's
    gradient instead of dropping it."""
    normalise: Literal["tokens", "sequences", "constant"] = "tokens"
    """What the loss is divided by: all tokens of the batch, so that each counts the same; or each answer's
    tokens, so that each answer does; or a constant, answers × `max_new_tokens`."""
    kl: float = Field(0.05, ge=0)
    """Weight of the KL penalty towards the initial model. Raise it if answers degenerate."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimate of the KL divergence, see `llm/rl/kl.py`. `k2` and `k3` are part of the loss; `k1`, which has
    no gradient of use, is subtracted from the reward."""
    policy_clip: float = Field(0.2, gt=0)
    """Clip range of the probability ratio: 1 ± this."""
    clip_high: float | None = Field(None, gt=0)
    """Upper end of the clip range, above 1 (DAPO: 0.28). Default: `policy_clip`."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature of the answers."""
    max_new_tokens: int = Field(32, ge=1)
    """Maximum tokens of an answer."""
    reward_model_weight: float = Field(1.0, ge=0)
    """Weight of the reward model's score in the reward."""
    verifier_weight: float = Field(2.0, ge=0)
    """Weight of the verifier's score (0 to 1) in the reward."""
    cpus_per_worker: float = Field(0.5, gt=0)
    """CPUs reserved per learner. Learners and rollout workers take turns, so they can share cores."""
    rollout_workers: int = Field(2, ge=1)
    """Number of workers that sample answers."""
    cpus_per_rollout_worker: float = Field(0.5, ge=0)
    """CPUs reserved per rollout worker."""
    gpus_per_rollout_worker: float = Field(0.0, ge=0)
    """GPUs reserved per rollout worker; 0 samples on the CPU, also for learners on GPUs."""
    heldout_prompts: int = Field(64, ge=0)
    """Held-out prompts whose reward is measured every `evaluate_every` steps."""

    @field_validator("verifier", "task")
    @classmethod
    def _known(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is not None:
            _check_name(name, VERIFIERS if info.field_name == "verifier" else TASKS)
        return name

    @field_validator("rewards")
    @classmethod
    def _all_known(cls, rewards: dict[str, float]) -> dict[str, float]:
        for name in rewards:
            _check_name(name, VERIFIERS)
        return rewards

    def verifiers(self) -> dict[str, float]:
        """The verifiers in use, with their weights."""
        if self.rewards:
            return self.rewards
        default = TASKS[self.task][1] if self.task in TASKS else HEADLINE
        own = self.prompts or (self.task and self.task not in TASKS)
        name = self.verifier or (None if own else default)
        return {name: 1.0} if name else {}

    def verifier_name(self) -> str | None:
        """What scores the answers, or None."""
        return " + ".join(self.verifiers()) or None

    def plugins(self) -> list[Plugin]:
        """The functions of the user's own files. Raises HeadwaterError for one that is not there."""
        setting = "rl.rewards" if self.rewards else "rl.verifier"
        named = [(setting, name) for name in self.verifiers()] + [("rl.task", self.task or "")]
        return [read_plugin(name, setting) for setting, name in named if is_plugin(name)]

    def objective(self) -> Policy:
        """The learner's loss."""
        return Policy(
            self.loss,
            clip=self.policy_clip,
            clip_high=self.clip_high,
            kl=0.0 if self.kl_estimator == "k1" else self.kl,
            kl_estimator=self.kl_estimator,
            temperature=self.temperature,
            normalise=self.normalise,
            max_tokens=self.max_new_tokens,
            critic=Critic(self.value_weight, self.value_clip) if self.advantage == "gae" else None,
        )

    def note_on_devices(self) -> str:
        """What to say of learners on GPUs whose answers are sampled on CPUs; empty otherwise."""
        if not self.gpus_per_worker or self.gpus_per_rollout_worker:
            return ""
        return "rl: answers are sampled on CPUs; `rl.gpus_per_rollout_worker` gives the rollout workers GPUs"

    def resumable(self, step: int) -> bool:
        """Between rollout batches: the answers of one are not part of a checkpoint."""
        return step % (self.epochs * self.mini_batches) == 0

    def accumulation(self, world_size: int) -> int:
        """As of whole groups, which a learner's share is made of."""
        largest_share = -(-(self.batch // self.group) // world_size) * self.group
        return -(-largest_share // self.micro_batch)

    def rollouts(self, count: int, section: str = "") -> Actors:
        """That many rollout workers; each also holds the reward model."""
        keys = ["rollout_workers", "cpus_per_rollout_worker"]
        keys += ["gpus_per_rollout_worker"] if self.gpus_per_rollout_worker else []
        each = Need(self.cpus_per_rollout_worker, self.gpus_per_rollout_worker)
        return Actors("rollout workers", count, each, tuple(f"{section}{key}" for key in keys))

    @model_validator(mode="after")
    def _together(self) -> RlConfig:
        if self.batch % self.group:
            raise ValueError(
                f"`batch` ({self.batch}) is not a multiple of `group` ({self.group}): choose a multiple"
            )
        if self.batch // self.group < self.workers:
            raise ValueError(
                f"`batch` ({self.batch}) holds fewer groups of {self.group} than there are `workers` "
                f"({self.workers}): raise `batch` or lower `workers`"
            )
        if self.prompts and self.task:
            raise ValueError("`prompts` and `task` both give the prompts: remove one")
        if self.verifier and self.rewards:
            raise ValueError("`verifier` and `rewards` both score the answers: remove one")
        if self.advantage == "gae" and (self.lora or self.optimizer != "adamw" or self.zero.stage == 3):
            raise ValueError(
                "`advantage: gae` trains a value head, for which `lora`, `optimizer: muon` and "
                "`zero.stage: 3` are not made: remove them"
            )
        if self.keep_best and not self.resumable(self.evaluate_every):
            raise ValueError(
                f"`keep_best` needs an `evaluate_every` ({self.evaluate_every}) that is a multiple of "
                f"`epochs` × `mini_batches` ({self.epochs} × {self.mini_batches}): checkpoints are made "
                "between rollout batches"
            )
        return self


def _check_name(name: str, known: Mapping[str, Any]) -> None:
    if name not in known and not is_plugin(name):
        raise ValueError(f"no {name}: one of {', '.join(known)}, or FILE.py:FUNCTION")
