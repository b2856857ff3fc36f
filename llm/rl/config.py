"""Settings of the rl stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from headwater.cluster.runtime.needs import Actors, Need
from headwater.cluster.runtime.plugins import Plugin, is_plugin, read_plugin
from headwater.cluster.runtime.stage import unkeyed
from headwater.llm.examples.own_data.source import DataSources
from headwater.llm.rl.losses import Critic, Policy
from headwater.llm.rl.rewards.made_tasks import SEARCH, TASKS, check_name
from headwater.llm.rl.rewards.verifiers import CITATIONS, HEADLINE, VERIFIERS
from headwater.llm.training.config import RUNTIME_FIELDS, FineTuneConfig

RUNTIME = RUNTIME_FIELDS | {
    *("rollout_workers", "cpus_per_rollout_worker", "verifier_seconds", "mismatch_limit")
}
"""Settings that do not change what is trained: a run may resume with other values."""
ARITHMETIC = {"micro_batch", "cpus_per_worker", "zero", "activation_checkpointing", "torch_compile"}
"""Those of them that change the last bits of what is trained."""


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
    digits), `search` (the questions of the section `grounded`, without passages: the model looks for them in
    the index), or `FILE.py:FUNCTION`, a function of your own that yields pairs of a prompt and a right
    answer, or a class of several turns, see docs/extending.md. A tenth is held out."""
    rankings: bool | str = False
    """Also train on the prompts that people ranked at the endpoint, or on those of a file of pairs. A tenth
    is held out. Only the reward model scores their answers."""
    max_turns: int = Field(3, ge=1)
    """Messages of the model in a task of several turns, its answer included."""
    max_episode_tokens: int = Field(512, ge=1)
    """Tokens after the prompt of a task of several turns: all messages of the model and all replies. A reply
    that leaves no room for `max_new_tokens` more ends the episode."""
    unanswerable: float = Field(0.5, gt=0, lt=1)
    """Share of the prompts of a section `grounded` that have no answer. The higher, the more a policy
    refuses; with 0.25 it learns to answer everything."""
    verifier: str | None = None
    """What scores an answer from 0 to 1: a name of `llm/rl/rewards/verifiers.py`, or `FILE.py:FUNCTION`, a
    function of your own, see docs/extending.md. Default: `headline` for the headline task, `citations` for
    the tasks of a section `grounded`, `number` for arithmetic, none for prompts and tasks of your own."""
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
    max_staleness: int = Field(0, ge=0)
    """How many rollout batches may have been trained since the weights that sampled an answer. At 0 learners
    and rollout workers take turns. From 1 on rollout workers sample ahead while the learners train (AReaL, Fu
    et al. 2025, which finds no loss up to about 4 to 8 with `importance_cap`), and prompts are trained in the
    order in which their answers arrive."""
    importance_cap: float | None = Field(None, gt=0)
    """Truncated importance weights: each token's policy loss is multiplied by min(p / q, this), with its
    probability p under the learner at the beginning of the rollout batch and q when it was sampled; the clip
    then acts around p (TIS, Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
    training", with 2; decoupled PPO in AReaL). Costs another forward pass per rollout batch. Default: off, q
    counts as p."""
    sequence_bound: float | None = Field(None, gt=1)
    """Leave an answer out if the geometric mean of p / q over its tokens is above this or below 1 / this
    (Liu et al. 2025, "When speed kills stability"). Default: none is left out."""
    mismatch_limit: float = Field(0.1, gt=0)
    """Stop if the learner's log-probabilities of answers that its own weights sampled differ from the
    recorded ones by more than this, in nats: the mean over the tokens of a step. Rounding in bf16 makes some
    0.01; wrong weights, or another temperature, make more. Not tested with `lora.dropout`."""
    cpus_per_worker: float = Field(0.5, gt=0)
    """CPUs reserved per learner. Learners and rollout workers take turns, so they can share cores, unless
    `max_staleness` lets them work at the same time."""
    rollout_workers: int = Field(2, ge=1)
    """Number of workers that sample answers."""
    cpus_per_rollout_worker: float = Field(0.5, ge=0)
    """CPUs reserved per rollout worker."""
    gpus_per_rollout_worker: float = Field(0.0, ge=0)
    """GPUs reserved per rollout worker; 0 samples on the CPU, also for learners on GPUs."""
    rollout_precision: Literal["auto", "fp32", "bf16"] = Field("auto", exclude_if=unkeyed("auto"))
    """Number format in which answers are sampled and the initial model reads them. `auto`: bf16 on GPUs, fp32
    on CPUs. CPUs that multiply bf16 natively are faster with it, but its rounding lets an answer depend on
    those that are sampled beside it."""
    heldout_prompts: int = Field(64, ge=0)
    """Held-out prompts whose reward is measured every `evaluate_every` steps."""

    @field_validator("verifier", "task")
    @classmethod
    def _known(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is not None:
            check_name(name, VERIFIERS if info.field_name == "verifier" else [*TASKS, SEARCH])
        return name

    @field_validator("rewards")
    @classmethod
    def _all_known(cls, rewards: dict[str, float]) -> dict[str, float]:
        for name in rewards:
            check_name(name, VERIFIERS)
        return rewards

    def verifiers(self) -> dict[str, float]:
        """The verifiers in use, with their weights."""
        if self.rewards:
            return self.rewards
        own = self.prompts or (self.task and is_plugin(self.task))
        known = {name: verifier for name, (_, verifier) in TASKS.items()} | {SEARCH: CITATIONS}
        name = self.verifier or (None if own else known.get(self.task or "", HEADLINE))
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

    def steps_per_rollout(self) -> int:
        """Steps that a rollout batch is trained for."""
        return self.epochs * self.mini_batches

    def arithmetic(self) -> dict[str, Any]:
        """What else than the seed decides about the last bits of a step."""
        return self.model_dump(mode="json", include=ARITHMETIC)

    def corrects(self) -> bool:
        """Whether the learner computes its own log-probabilities of a rollout batch before training on it."""
        return self.importance_cap is not None or self.sequence_bound is not None

    def resumable(self, step: int) -> bool:
        """Between rollout batches: the answers of one are not part of a checkpoint."""
        return step % self.steps_per_rollout() == 0

    def accumulation(self, world_size: int, step: int | None = None) -> int:
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
        if self.task == SEARCH and self.max_episode_tokens < 2 * self.max_new_tokens:
            raise ValueError(
                f"`max_episode_tokens` ({self.max_episode_tokens}) has no room for a search and an answer of "
                f"`max_new_tokens` ({self.max_new_tokens}): raise it"
            )
        if self.prompts and self.task:
            raise ValueError("`prompts` and `task` both give the prompts: remove one")
        if self.rankings and not self.reward_model_weight:
            raise ValueError(
                "only a reward model can score answers to prompts that people ranked: raise "
                "`reward_model_weight` or remove `rankings`"
            )
        if self.rankings and self.task and (self.task == SEARCH or is_plugin(self.task)):
            raise ValueError(
                "`rankings` gives prompts of one turn, and `task` may take several: remove one of them"
            )
        if self.verifier and self.rewards:
            raise ValueError("`verifier` and `rewards` both score the answers: remove one")
        if self.advantage == "gae" and (self.lora or self.optimizer != "adamw" or self.zero.stage == 3):
            raise ValueError(
                "`advantage: gae` trains a value head, for which `lora`, `optimizer: muon` and "
                "`zero.stage: 3` are not made: remove them"
            )
        if self.max_staleness and self.on_nan == "rollback":
            raise ValueError(
                "`max_staleness` lets rollout workers sample with weights that `on_nan: rollback` would take "
                "back: choose `stop` or `skip`"
            )
        if self.keep_best and not self.resumable(self.evaluate_every):
            raise ValueError(
                f"`keep_best` needs an `evaluate_every` ({self.evaluate_every}) that is a multiple of "
                f"`epochs` × `mini_batches` ({self.epochs} × {self.mini_batches}): checkpoints are made "
                "between rollout batches"
            )
        return self
