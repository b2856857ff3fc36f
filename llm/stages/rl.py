"""The rl stage: a policy learns from a reward model's score, verifiable rewards, or both, with a KL penalty.

The learner is the training loop of all stages; its batches are rollouts (`llm/rl/batches.py`). Each rollout
batch publishes the weights, has the rollout workers sample a group of answers per prompt, and computes
advantages from their rewards, which one or several clipped policy steps follow. Rollout workers may sample
ahead. Each rollout batch is journalled before it is trained on (`llm/rl/rollouts/journal.py`): a resumed run
goes on with it, and `llm/stages/replay.py` trains from it again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.logs import Context
from headwater.cluster.runtime.needs import Moments
from headwater.cluster.runtime.plugins import is_plugin, read_plugin
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Input, Stage, StageConfig
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.data_pipeline.corpus import iter_documents
from headwater.data_pipeline.sources.items import Unread
from headwater.data_pipeline.tokens.tokenizer import TOKENIZER, load_tokenizer, padding_id, tokenizer_of
from headwater.llm.examples.own_data.reading import OwnFile, split_of_record
from headwater.llm.examples.own_data.source import DataSource, fingerprint, list_files
from headwater.llm.examples.tasks import Task, check_titles, headline_tasks
from headwater.llm.grounding.tasks import GroundedTask, mixed, read_tasks
from headwater.llm.inference.base import Sampling
from headwater.llm.model import build
from headwater.llm.rl.batches import RolloutBatches as RolloutBatches
from headwater.llm.rl.batches import total_reward as total_reward
from headwater.llm.rl.config import RUNTIME
from headwater.llm.rl.config import RlConfig as RlConfig
from headwater.llm.rl.rewards.judge import Weighted
from headwater.llm.rl.rewards.made_tasks import SEARCH, made_tasks
from headwater.llm.rl.rollouts.journal import Journal
from headwater.llm.rl.rollouts.sampler import Replayed, Sampler
from headwater.llm.rl.rollouts.sampler import prompt_order as prompt_order
from headwater.llm.rl.rollouts.search import OpenIndex, open_search, search_task
from headwater.llm.rl.rollouts.turns import Turns
from headwater.llm.rl.rollouts.worker import RolloutWorker, WeightBoard
from headwater.llm.stages.data import ranked_prompts
from headwater.llm.stages.data.own_data import Skipped, check_files, report
from headwater.llm.stages.models import FINE_TUNED, FOLDER, check_adapters, check_base, newest
from headwater.llm.training import loop
from headwater.llm.training.config import OFF_FIELDS
from headwater.llm.training.loop import TrainJob

SPLITS: tuple[Literal["train"], Literal["heldout"]] = ("train", "heldout")
REWARD = Input(("reward",), required=False)
RANKED_REWARD = Input(("reward",), what="a reward model: nothing else scores the prompts of `rl.rankings`")
SEARCHED = (
    Input(("grounded",), what="questions with answers from sources"),
    Input(("index",), what="an index to search"),
)
"""Inputs of the task `search`."""


class Rl(Stage[RlConfig]):
    name = "rl"
    version = 6
    runtime_fields = RUNTIME
    off_fields = OFF_FIELDS | {
        *("prompts", "task", "unanswerable", "verifier", "rewards", "mini_batches", "epochs"),
        *("loss", "normalise", "kl_estimator", "clip_high"),
        *("gamma", "gae_lambda", "value_weight", "value_clip"),
        *("max_staleness", "importance_cap", "sequence_bound"),
        *("max_turns", "max_episode_tokens", "rankings"),
    }
    open_index: OpenIndex | None = None
    """How the task `search` opens the index; the pipeline sets it."""

    def needs(self) -> tuple[Input, ...]:
        what = "documents with titles: its task is to write their headlines"
        tasks = Input(("grounded", "clean"), what=what, fix="give `rl.prompts`")
        return (
            *(SEARCHED if self.config.task == SEARCH else ()),
            *([] if self.config.prompts or self.config.task else [tasks]),
            TOKENIZER,
            FINE_TUNED,
            Input(("dpo",), required=False),
            RANKED_REWARD if self.config.rankings else REWARD,
        )

    def check_inputs(self, inputs: Mapping[str, Artifact]) -> None:
        check_base(inputs, self.name)
        check_adapters(inputs, self.config.lora)
        if "clean" in inputs:
            check_titles(inputs["clean"], self.name)

    def check(self) -> None:
        check_files(self.config.prompts, "rl.prompts", OwnFile.prompts)
        self.config.plugins()

    def fingerprint(self, session: Session) -> dict[str, Any]:
        prompts, plugins = self.config.prompts, self.config.plugins()
        found: dict[str, Any] = {"prompts": fingerprint(prompts, "rl.prompts")} if prompts else {}
        if self.config.rankings:
            found |= ranked_prompts.fingerprint(self.config.rankings, session.store)
        return found | ({"plugins": {plugin.name: plugin.sha256 for plugin in plugins}} if plugins else {})

    def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
        return [[self.config.learners(), self.config.rollouts(self.config.rollout_workers)]]

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        config = self.config
        own: dict[str, Any] = {}
        if config.prompts:
            tasks, files = own_tasks(config.prompts)
            units = [f | f["skipped"].close(output, f"own-{number:05d}") for number, f in enumerate(files)]
            own = report(session, "own prompts", units)
        else:
            tasks = tasks_of(config, inputs)
        if config.rankings:
            ranked = ranked_prompts.keep(config.rankings, session.store, output)
            tasks = {split: [*tasks[split], *ranked[split]] for split in SPLITS}
            session.say(f"rl: {len(ranked['train']):,} prompts that people ranked")
        if not tasks["train"]:
            raise HeadwaterError(
                "there are no prompts to train on",
                where="rl",
                fix="give more in `rl.prompts`: a tenth is held out",
            )
        heldout = tasks["heldout"][: config.heldout_prompts]
        if note := config.note_on_devices():
            session.say(note)
        board, workers = start_rollout_workers(session, inputs, config, open_index=self.open_index)
        sampler = Sampler(config, tasks["train"], board, workers, Journal(output))
        job = learner(config, inputs, output, tasks["train"], heldout, sampler)
        try:
            history = loop.train(job, session)
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
            "rollout_wait": waited_share(history),
            **own,
            **loop.summary(history),
        }


def learner(
    config: RlConfig,
    inputs: Mapping[str, Artifact],
    output: Artifact,
    tasks: list[Task],
    heldout: list[Task],
    sampler: Sampler | Replayed,
) -> TrainJob:
    """The learner's job. Held-out prompts, if there are any, are answered by the sampler's workers."""
    tokenizer = tokenizer_of(inputs)
    pad_id = padding_id(load_tokenizer(tokenizer.local()))
    source = RolloutBatches(config, tasks, heldout, sampler, pad_id)
    judged = bool(heldout) and len(heldout) >= config.workers
    return TrainJob(
        label="rl",
        config=config,
        objective=config.objective(),
        source=source,
        load_model=functools.partial(
            build.critic if config.advantage == "gae" else build.stored_model,
            Folder(starting_policy(inputs), FOLDER),
            config.lora,
            config.precision,
        ),
        tokenizer=tokenizer,
        output=output,
        evaluate=source.evaluate if judged else None,
        judged_by="-heldout_reward" if judged else None,
        check=source.check,
    )


def waited_share(history: Sequence[Mapping[str, float]]) -> float:
    """Share of all steps' time that the learner waited for rollouts."""
    timed = [record for record in history if "rollout_wait" in record]
    whole = sum(record["seconds"] for record in timed)
    return sum(record["rollout_wait"] * record["seconds"] for record in timed) / max(whole, 1e-9)


def tasks_of(config: RlConfig, inputs: Mapping[str, Artifact]) -> dict[str, list[Task]]:
    """The tasks of both splits, in a fixed order."""
    if config.prompts:
        return own_tasks(config.prompts)[0]
    if config.task == SEARCH:
        found = {split: _grounded(config, inputs["grounded"], split) for split in SPLITS}
        return {split: [search_task(task) for task in some] for split, some in found.items()}
    if config.task:
        return made_tasks(config.task)
    if "grounded" in inputs:
        found = {split: _grounded(config, inputs["grounded"], split) for split in SPLITS}
        return {split: [task.as_prompt() for task in some] for split, some in found.items()}
    documents = list(iter_documents(inputs["clean"]))
    return {split: list(headline_tasks(documents, split)) for split in SPLITS}


def _grounded(config: RlConfig, grounded: Artifact, split: Literal["train", "heldout"]) -> list[GroundedTask]:
    return mixed(read_tasks(grounded, split), config.unanswerable)


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
    open_index: OpenIndex | None = None,
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
    plugins = {plugin.name: plugin for plugin in config.plugins()}
    verifiers = [Weighted(name, weight, plugins.get(name)) for name, weight in config.verifiers().items()]
    workers = [
        make.remote(
            policy=Folder(policy, FOLDER) if policy else start,
            reference=start,
            reward=Folder(inputs["reward"], FOLDER) if "reward" in inputs else None,
            verifiers=verifiers,
            board=board,
            sampling=Sampling(config.max_new_tokens, config.temperature),
            threads=max(1, int(config.cpus_per_rollout_worker)),
            context=Context.here(),
            gpus=config.gpus_per_rollout_worker,
            verifier_seconds=config.verifier_seconds,
            turns=turns_of(session, inputs, config, open_index),
            precision=config.rollout_precision,
        )
        for _ in range(config.rollout_workers)
    ]
    return board, workers


def turns_of(
    session: Session, inputs: Mapping[str, Artifact], config: RlConfig, open_index: OpenIndex | None
) -> Turns | None:
    """How the rollout workers open the task's environment; None for tasks of one turn by their making."""
    opener: Callable[[], Any] | None = None
    if config.task == SEARCH:
        assert open_index is not None, "the pipeline sets it"
        key = inputs["index"].key if "index" in inputs else inputs[Rl.name].finished().inputs["index"]
        opener = functools.partial(open_search, open_index, session.store.artifact("index", key).location)
    elif config.task and is_plugin(config.task):
        opener = read_plugin(config.task, "rl.task").load
    return Turns(opener, config.max_turns, config.max_episode_tokens) if opener else None


def stop_actors(actors: Iterable[Any]) -> None:
    import ray

    for actor in actors:
        ray.kill(actor)
