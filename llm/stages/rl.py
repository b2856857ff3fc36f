"""The rl stage: GRPO on a reward model's score, a verifiable reward, or both, with a KL penalty.

The learner is the training loop of all stages; its batches are rollouts. Each step publishes the weights, has
the rollout workers sample a group of answers per prompt, computes advantages from their rewards and takes one
clipped policy step. Prompts and seeds are functions of the step: a resumed run uses the same prompts.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.logs import Context
from headwater.cluster.runtime.needs import Actors, Moments, Need
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Input, Stage, StageConfig
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.data_pipeline.corpus import iter_documents
from headwater.data_pipeline.sources.items import Unread
from headwater.data_pipeline.tokens.tokenizer import TOKENIZER, load_tokenizer, padding_id, tokenizer_of
from headwater.llm.examples.own_data.reading import OwnFile, split_of_record
from headwater.llm.examples.own_data.source import DataSource, DataSources, fingerprint, list_files
from headwater.llm.examples.tasks import Task, check_titles, headline_tasks
from headwater.llm.grounding.tasks import read_tasks
from headwater.llm.inference.base import Sampling
from headwater.llm.model import build
from headwater.llm.rl.advantages import ESTIMATORS
from headwater.llm.rl.losses import ClippedPolicy
from headwater.llm.rl.rollouts import Rollouts, RolloutWorker, WeightBoard, learner_arrays
from headwater.llm.rl.verifiers import HEADLINE, VERIFIERS
from headwater.llm.rows.order import ShuffledOrder
from headwater.llm.stages.models import FINE_TUNED, FOLDER, check_base, newest
from headwater.llm.stages.own_data import Skipped, check_files, report
from headwater.llm.training import loop
from headwater.llm.training.config import OFF_FIELDS, RUNTIME_FIELDS, FineTuneConfig
from headwater.llm.training.loop import TrainJob, Worker

HELDOUT_SEED = 1 << 20
SPLITS: tuple[Literal["train"], Literal["heldout"]] = ("train", "heldout")
REWARD = Input(("reward",), required=False)


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
    verifier: str | None = None
    """What scores an answer from 0 to 1, see `llm/rl/verifiers.py`. Default: `headline` for the headline
    task, `citations` for the tasks of a section `grounded`, none for prompts of your own."""
    batch: int = Field(64, ge=1)
    """Sampled answers per step: prompts × `group`."""
    group: int = Field(8, ge=2)
    """Answers sampled per prompt and compared with each other. Larger groups give less noisy advantages."""
    advantage: Literal["grpo", "rloo"] = "grpo"
    """Advantage estimator: `grpo` normalises by the group's deviation, `rloo` subtracts the others' mean."""
    kl: float = Field(0.05, ge=0)
    """Weight of the KL penalty towards the initial model. Raise it if answers degenerate."""
    policy_clip: float = Field(0.2, gt=0)
    """PPO's clip range of the probability ratio."""
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
    """GPUs reserved per rollout worker; 0 samples on the CPU."""
    heldout_prompts: int = Field(64, ge=0)
    """Held-out prompts whose reward is measured every `evaluate_every` steps."""

    @field_validator("verifier")
    @classmethod
    def _known(cls, verifier: str | None) -> str | None:
        if verifier is not None and verifier not in VERIFIERS:
            raise ValueError(f"no such verifier; one of {', '.join(VERIFIERS)}")
        return verifier

    def verifier_name(self) -> str | None:
        """The verifier in use, or None."""
        return self.verifier or (None if self.prompts else HEADLINE)

    def rollouts(self, count: int, section: str = "") -> Actors:
        """That many rollout workers; each also holds the reward model."""
        keys = ["rollout_workers", "cpus_per_rollout_worker"]
        keys += ["gpus_per_rollout_worker"] if self.gpus_per_rollout_worker else []
        each = Need(self.cpus_per_rollout_worker, self.gpus_per_rollout_worker)
        return Actors("rollout workers", count, each, tuple(f"{section}{key}" for key in keys))

    @model_validator(mode="after")
    def _whole_groups_on_a_fixed_number_of_learners(self) -> RlConfig:
        if self.batch % (self.group * self.workers):
            raise ValueError(
                f"`batch` ({self.batch}) is not a multiple of `group` × `workers` "
                f"({self.group} × {self.workers}): choose a multiple"
            )
        if self.min_workers is not None:
            raise ValueError(
                "`min_workers` cannot be set: samples depend on the number of learners. Remove it; a lost "
                "learner is replaced when there is room"
            )
        return self


def total_reward(rollouts: Rollouts, config: RlConfig) -> np.ndarray:
    """[samples] the reward that the policy is trained to maximise."""
    return config.reward_model_weight * rollouts.model_rewards + config.verifier_weight * rollouts.verified


class RolloutBatches:
    """The learner's batch source: publishes weights, collects rollouts, computes advantages."""

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
        self.plan = ShuffledOrder(len(tasks), config.batch // config.group, config.seed)
        self.last: dict[str, float] = {}

    def open(self, worker: Worker) -> None:
        self.worker = worker
        self.published = -1

    def batch(self, step: int) -> dict[str, np.ndarray]:
        config, worker = self.config, self.worker
        indices = self.plan.share(step, worker.rank, worker.world_size)
        seed = (config.seed * 1_000_003 + step) * worker.world_size + worker.rank
        rollouts = self._rollout([self.tasks[i] for i in indices], config.group, seed, step)
        rewards = total_reward(rollouts, config)
        advantages = ESTIMATORS[config.advantage](rewards.reshape(-1, config.group)).reshape(-1)
        self.last = self._means(rollouts, rewards, "")
        return learner_arrays(rollouts, advantages, self.pad_id)

    def metrics(self) -> dict[str, float]:
        return self.last

    def describe(self, step: int) -> list[str]:
        """The documents of the prompts of a step's answers."""
        return [self.tasks[i].origin for i in self.plan.indices(step)]

    def evaluate(self, worker: Worker) -> dict[str, float]:
        """Reward on this rank's share of the held-out prompts: one answer each, with fixed seeds."""
        mine = self.heldout[worker.rank :: worker.world_size]
        rollouts = self._rollout(mine, 1, HELDOUT_SEED + worker.rank, len(worker.history) + 1)
        return self._means(rollouts, total_reward(rollouts, self.config), "heldout_")

    def _rollout(self, tasks: list[Task], group: int, seed: int, version: int) -> Rollouts:
        import ray

        if version != self.published:
            weights = self.worker.weights()
            if self.worker.rank == 0:
                ray.get(self.board.publish.remote(version, [ray.put(weights)]))
            self.published = version
        chosen = self.rollout_workers[self.worker.rank % len(self.rollout_workers)]
        return ray.get(chosen.rollout.remote(tasks, group, seed, version))

    def _means(self, rollouts: Rollouts, rewards: np.ndarray, prefix: str) -> dict[str, float]:
        lengths = [len(completion.ids) for completion in rollouts.completions]
        sums = [
            rewards.sum(),
            rollouts.model_rewards.sum(),
            rollouts.verified.sum(),
            sum(lengths),
            len(lengths),
        ]
        *totals, count = self.worker.total([float(value) for value in sums])
        names = ("reward", "reward_model", "verified", "answer_tokens")
        return {f"{prefix}{name}": total / count for name, total in zip(names, totals, strict=True)}


class Rl(Stage[RlConfig]):
    name = "rl"
    # Each learner samples its own share of the answers: their number changes the samples.
    runtime_fields = RUNTIME_FIELDS - {"workers", "min_workers"} | {"cpus_per_rollout_worker"}
    off_fields = OFF_FIELDS | {"prompts", "verifier"}

    def needs(self) -> tuple[Input, ...]:
        what = "documents with titles: its task is to write their headlines"
        tasks = Input(("grounded", "clean"), what=what, fix="give `rl.prompts`")
        return (
            *([] if self.config.prompts else [tasks]),
            TOKENIZER,
            FINE_TUNED,
            Input(("dpo",), required=False),
            REWARD,
        )

    def check_inputs(self, inputs: Mapping[str, Artifact]) -> None:
        check_base(inputs, self.name)
        if "clean" in inputs:
            check_titles(inputs["clean"], self.name)

    def check(self) -> None:
        check_files(self.config.prompts, "rl.prompts", OwnFile.prompts)

    def fingerprint(self, session: Session) -> dict[str, Any]:
        return {"prompts": fingerprint(self.config.prompts, "rl.prompts")} if self.config.prompts else {}

    def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
        return [[self.config.learners(), self.config.rollouts(self.config.rollout_workers)]]

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        config = self.config
        tokenizer = tokenizer_of(inputs)
        own: dict[str, Any] = {}
        if config.prompts:
            tasks, files = own_tasks(config.prompts)
            units = [f | f["skipped"].close(output, f"own-{number:05d}") for number, f in enumerate(files)]
            own = report(session, "own prompts", units)
        else:
            tasks = tasks_of(config, inputs)
        if not tasks["train"]:
            raise HeadwaterError(
                "there are no prompts to train on",
                where="rl",
                fix="give more in `rl.prompts`: a tenth is held out",
            )
        heldout = tasks["heldout"][: config.heldout_prompts]
        board, workers = start_rollout_workers(session, inputs, config)
        pad_id = padding_id(load_tokenizer(tokenizer.local()))
        source = RolloutBatches(config, tasks["train"], heldout, board, workers, pad_id)
        try:
            history = loop.train(
                TrainJob(
                    label="rl",
                    config=config,
                    objective=ClippedPolicy(config.policy_clip, config.kl, config.temperature),
                    source=source,
                    load_model=functools.partial(
                        build.saved_model,
                        Folder(starting_policy(inputs), FOLDER),
                        config.lora,
                        config.precision,
                    ),
                    tokenizer=tokenizer,
                    output=output,
                    evaluate=source.evaluate if len(heldout) >= config.workers else None,
                    judged_by="-heldout_reward" if len(heldout) >= config.workers else None,
                ),
                session,
            )
        finally:
            stop_actors([board, *workers])
        first, last = (sum(r["reward"] for r in part) / len(part) for part in (history[:5], history[-5:]))
        session.say(
            f"reward of the first five steps {first:.3f}, of the last five {last:.3f}; "
            f"KL {history[-1]['kl']:.4f}"
        )
        return {
            "first_reward": first,
            "last_reward": last,
            "kl": history[-1]["kl"],
            **own,
            **loop.summary(history),
        }


def tasks_of(config: RlConfig, inputs: Mapping[str, Artifact]) -> dict[str, list[Task]]:
    """The tasks of both splits, in a fixed order."""
    if config.prompts:
        return own_tasks(config.prompts)[0]
    if "grounded" in inputs:
        grounded = inputs["grounded"]
        return {split: [t.as_prompt() for t in read_tasks(grounded, split)] for split in SPLITS}
    documents = list(iter_documents(inputs["clean"]))
    return {split: list(headline_tasks(documents, split)) for split in SPLITS}


def own_tasks(sources: Sequence[DataSource]) -> tuple[dict[str, list[Task]], list[dict[str, Any]]]:
    """The tasks of both splits, and of each file what `own_data.report` says of it, with its `Skipped`."""
    tasks: dict[str, list[Task]] = {"train": [], "heldout": []}
    files = []
    for file in list_files(sources, "rl.prompts"):
        opened, skipped, used = OwnFile(file.source, file.path), Skipped(), 0
        for where, prompt in opened.prompts():
            if isinstance(prompt, Unread):
                skipped.add(prompt)
                continue
            used += 1
            tasks[split_of_record(where)].append(Task(where, prompt.messages, prompt.reference or ""))
        files.append({"file": file.path, "format": opened.format, "used": used, "skipped": skipped})
    return tasks, files


def starting_policy(inputs: Mapping[str, Artifact]) -> Artifact:
    """The initial policy and KL reference: the newest model before this stage."""
    return newest({name: artifact for name, artifact in inputs.items() if name != Rl.name})


def start_rollout_workers(
    session: Session,
    inputs: Mapping[str, Artifact],
    config: RlConfig,
    *,
    policy: Artifact | None = None,
) -> tuple[Any, list[Any]]:
    """The weight board and the rollout workers; they survive a restart of the learner."""
    import ray

    session.ray()
    board: Any = ray.remote(num_cpus=0)(WeightBoard).remote()
    make = ray.remote(
        num_cpus=config.cpus_per_rollout_worker,
        num_gpus=config.gpus_per_rollout_worker,
        max_restarts=-1,
        max_task_retries=3,
    )(RolloutWorker)
    start = Folder(starting_policy(inputs), FOLDER)
    workers = [
        make.remote(
            policy=Folder(policy, FOLDER) if policy else start,
            reference=start,
            reward=Folder(inputs["reward"], FOLDER) if "reward" in inputs else None,
            verifier=config.verifier_name(),
            board=board,
            sampling=Sampling(config.max_new_tokens, config.temperature),
            threads=max(1, int(config.cpus_per_rollout_worker)),
            context=Context.here(),
            gpus=config.gpus_per_rollout_worker,
        )
        for _ in range(config.rollout_workers)
    ]
    return board, workers


def stop_actors(actors: Iterable[Any]) -> None:
    import ray

    for actor in actors:
        ray.kill(actor)
