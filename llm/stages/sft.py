"""The sft stage: fine-tuning on conversations, with the loss on the assistant's tokens only."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.needs import Moments, pool
from headwater.cluster.runtime.parallel import map_units
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Input, NonEmpty, Stage, StageConfig
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.cluster.storage.filesystem import filesystem
from headwater.data_pipeline.corpus import iter_documents, kept_files
from headwater.data_pipeline.sources.items import Unread
from headwater.data_pipeline.tokens.tokenizer import TOKENIZER, load_tokenizer, padding_id, tokenizer_of
from headwater.llm.examples import conversations
from headwater.llm.examples.chat import EncodedConversations, encode_conversations
from headwater.llm.examples.encoded import EncodedExamples, Example, describe_examples, pad, write_examples
from headwater.llm.examples.own_data.reading import OwnFile, split_of_record
from headwater.llm.examples.own_data.source import DataSource, DataSources, fingerprint, list_files
from headwater.llm.examples.tasks import Task, check_titles
from headwater.llm.grounding.tasks import read_tasks
from headwater.llm.model import build
from headwater.llm.rl.rewards.made_tasks import SEARCH, TASKS, check_name, made_tasks, task_fingerprint
from headwater.llm.rl.rollouts.search import demonstration
from headwater.llm.rows.order import BatchOrder, ShuffledOrder
from headwater.llm.stages.data.own_data import Skipped, check_files, example_order, file_prefix, report
from headwater.llm.stages.data.pair_batches import even_share, passes
from headwater.llm.stages.models import GROUNDED, PRETRAINED, check_adapters, check_base, newest_model
from headwater.llm.training import loop
from headwater.llm.training.config import OFF_FIELDS, RUNTIME_FIELDS, FineTuneConfig
from headwater.llm.training.loop import TrainJob, Worker
from headwater.llm.training.losses.objectives import NextToken

MAKERS = {
    "headline": conversations.headline_conversation,
    "passage": conversations.passage_conversation,
}
CHUNK = 4096
"""Own conversations that are encoded, and written to one file, at a time."""

Talk = tuple[str, conversations.Conversation]
"""A conversation and its origin."""


class SftConfig(FineTuneConfig):
    """Settings of supervised fine-tuning."""

    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW."""
    z_loss: float = Field(0.0, ge=0)
    """Weight of log²Z added to the cross-entropy (PaLM: 1e-4), which keeps logits small; 0 turns it off."""
    make: tuple[Literal["headline", "passage"], ...] = ("headline", "passage")
    """Kinds of conversations to make from the cleaned documents that are not held out. A recipe with `data`,
    `task` or a section `grounded` makes none unless it asks for them."""
    files: tuple[NonEmpty, ...] = ()
    """Additional files of `{"messages": […]}`: short for `data` with this format."""
    data: DataSources | None = None
    """Own conversations: files, folders, globs, `s3://` and `hf://` names, or sections with `files`. A tenth
    is held out."""
    task: str | None = None
    """Conversations made by a program: the prompts and right answers of `arithmetic` or of
    `FILE.py:FUNCTION`, as for `rl.task`, which holds out the same tenth. `search`: the tasks of the section
    `grounded`, with a search for their passages, to begin with before `rl.task: search`."""
    max_length: int = Field(320, ge=2)
    """Maximum tokens of a conversation; longer ones lose the middle of their longest prompt."""

    @field_validator("task")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None:
            check_name(name, [*TASKS, SEARCH])
        return name


class ConversationEncoder:
    """Unit worker: encodes the conversations of one part of the corpus, of one own file, of the grounded
    tasks of a split, or of tasks that a program made."""

    def __init__(
        self,
        config: SftConfig,
        clean: Artifact | None,
        tokenizer: Folder,
        output: Artifact,
        grounded: Artifact | None = None,
        made: Mapping[str, Sequence[Task]] | None = None,
    ) -> None:
        self.config, self.clean, self.output = config, clean, output
        self.grounded, self.made = grounded, made or {}
        self.tokenizer = load_tokenizer(tokenizer.local())

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        if "file" in unit:
            return self._own(unit)
        if "grounded" in unit:
            return self._grounded(unit["grounded"], unit["unit"])
        split: dict[str, list[Talk]] = {"train": [], "heldout": []}
        if "task" in unit:
            split |= {name: [_talk(task) for task in tasks] for name, tasks in self.made.items()}
            return self._write_both(split, unit["unit"])
        assert self.clean is not None, "only a corpus has parts"
        for document in iter_documents(self.clean, files=[unit["part"]]):
            made = [MAKERS[kind](document) for kind in self.config.make]
            split[conversations.split_of(document["id"])] += [(document["id"], t) for t in made if t]
        return self._write_both(split, unit["unit"])

    def _grounded(self, split: Literal["train", "heldout"], name: str) -> dict[str, Any]:
        assert self.grounded is not None, "the unit is of this artifact"
        tasks = read_tasks(self.grounded, split)
        searched = self.config.task == SEARCH
        talks = [(t.document_id, demonstration(t) if searched else t.record()["messages"]) for t in tasks]
        encoded = self._write(f"{split}/{name}.arrow", talks)
        counts = {"train": 0, "train_shortened": 0, "heldout": 0, "heldout_shortened": 0}
        return counts | {split: len(encoded.kept), f"{split}_shortened": encoded.shortened}

    def _own(self, unit: dict[str, Any]) -> dict[str, Any]:
        """Encode one own file in chunks; what cannot be learnt from goes to `unread/`."""
        messages = DataSource(files=(unit["file"],), format="messages")
        source = (self.config.data or ())[unit["source"]] if "source" in unit else messages
        opened, skipped = OwnFile(source, unit["file"]), Skipped()
        counts = {"train": 0, "train_shortened": 0, "heldout": 0, "heldout_shortened": 0}
        found = opened.conversations()
        for chunk in itertools.count():
            split: dict[str, list[Talk]] = {"train": [], "heldout": []}
            read = list(itertools.islice(found, CHUNK))
            for where, talk in read:
                if isinstance(talk, Unread):
                    skipped.add(talk)
                else:
                    split[split_of_record(where)].append((where, talk))
            if not read and chunk:
                break
            for name, talks in split.items():
                encoded = self._write(f"{name}/{unit['unit']}-{chunk:05d}.arrow", talks)
                counts[name] += len(encoded.kept)
                counts[f"{name}_shortened"] += encoded.shortened
                for number in set(range(len(talks))).difference(encoded.kept):
                    detail = f"no token to learn within `max_length` {self.config.max_length}"
                    skipped.add(opened.problem(talks[number][0], "too_long", detail))
        used = counts["train"] + counts["heldout"]
        own = {"file": unit["file"], "format": opened.format, "used": used}
        return counts | own | skipped.close(self.output, unit["unit"])

    def _write_both(self, split: Mapping[str, Sequence[Talk]], name: str) -> dict[str, int]:
        counts: dict[str, int] = {}
        for part, talks in split.items():
            encoded = self._write(f"{part}/{name}.arrow", talks)
            counts |= {part: len(encoded.kept), f"{part}_shortened": encoded.shortened}
        return counts

    def _write(self, name: str, talks: Sequence[Talk]) -> EncodedConversations:
        encoded = encode_conversations(self.tokenizer, [talk for _, talk in talks], self.config.max_length)
        examples: list[Example] = [{"ids": ids, "mask": mask} for ids, mask in encoded.conversations]
        origins = [[talks[number][0]] for number in encoded.kept]
        write_examples(self.output, name, examples, ("ids", "mask"), origins=origins)
        return encoded


class ConversationBatches:
    """`ids` [B, L] padded on the right and `mask` [B, L], 1 on the assistant's tokens."""

    def __init__(
        self, examples: EncodedExamples, batch: int, seed: int, pad_id: int, order: BatchOrder | None = None
    ) -> None:
        """`order`: default is every conversation once per epoch."""
        self.examples, self.pad_id = examples, pad_id
        self.plan = order or ShuffledOrder(len(examples), batch, seed)

    def open(self, worker: Worker) -> None:
        self.rank, self.world_size = worker.rank, worker.world_size

    def batch(self, step: int) -> dict[str, np.ndarray]:
        indices = self.plan.share(step, self.rank, self.world_size)
        return {
            "ids": pad(self.examples.gather("ids", indices), self.pad_id),
            "mask": pad(self.examples.gather("mask", indices), 0, np.uint8),
        }

    def metrics(self) -> dict[str, float]:
        return {}

    def describe(self, step: int) -> list[str]:
        """One line per conversation of a step's global batch: what it was made from."""
        return describe_examples(self.examples, self.plan.indices(step))


class Heldout:
    """Loss per token on at most `limit` held-out conversations, an even share of each file."""

    def __init__(self, examples: EncodedExamples, micro_batch: int, pad_id: int, limit: int = 256) -> None:
        self.examples, self.micro_batch, self.pad_id = examples, micro_batch, pad_id
        self.chosen = even_share([rows for _, rows in examples.files()], limit)

    def __call__(self, worker: Worker) -> dict[str, float]:
        import torch

        objective, nats, weight = NextToken(sparse=True), 0.0, 0.0
        own = self.chosen[worker.rank :: worker.world_size]
        for rows, counts in passes(own, len(self.chosen), worker, self.micro_batch):
            mask = pad(self.examples.gather("mask", rows), 0, np.uint8) * counts
            ids = pad(self.examples.gather("ids", rows), self.pad_id)
            batch = {
                "ids": torch.from_numpy(ids).to(worker.device),
                "mask": torch.from_numpy(mask).to(worker.device),
            }
            with torch.no_grad():
                nats += float(objective.loss_sum(worker.engine, batch)[0])
            weight += objective.weight(batch)
        total, tokens = worker.total([nats, weight])
        return {"heldout_loss": total / max(1.0, tokens)}


class Sft(Stage[SftConfig]):
    name = "sft"
    version = 2
    runtime_fields = RUNTIME_FIELDS
    off_fields = OFF_FIELDS | {"data", "task"}

    def needs(self) -> tuple[Input, ...]:
        documents = Input(
            ("clean",),
            what=f"documents to make conversations from (`sft.make: {list(self.config.make)}`)",
            fix="give conversations in `sft.data`",
        )
        return (*([documents] if self.config.make else []), TOKENIZER, PRETRAINED, GROUNDED)

    def check_inputs(self, inputs: Mapping[str, Artifact]) -> None:
        check_base(inputs, self.name)
        check_adapters(inputs, self.config.lora)
        if "clean" in inputs and not (self.config.files or self.config.data or self.config.task):
            check_titles(inputs["clean"], self.name)

    def fingerprint(self, session: Session) -> dict[str, Any]:
        files = {"files": [_size_and_time(location) for location in self.config.files]}
        data, plugin = self.config.data, task_fingerprint(self.config.task, "sft.task")
        own = {"data": fingerprint(data, "sft.data")} if data else {}
        return files | own | ({"plugins": plugin} if plugin else {})

    def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
        return [pool(), [self.config.learners()]]

    def check(self) -> None:
        check_files(self.config.data, "sft.data", OwnFile.conversations)
        task_fingerprint(self.config.task, "sft.task")

    def files(self) -> Iterable[tuple[str, str]]:
        return (("files", location) for location in self.config.files)

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        config = self.config
        tokenizer = tokenizer_of(inputs)
        counts = map_units(
            session,
            output,
            "conversations",
            list(_units(inputs.get("clean"), config, inputs.get("grounded"))),
            ConversationEncoder,
            worker_args={
                "config": config,
                "clean": inputs.get("clean"),
                "tokenizer": tokenizer,
                "output": output,
                "grounded": inputs.get("grounded"),
                "made": made_tasks(config.task, "sft.task") if config.task not in (None, SEARCH) else None,
            },
        )
        pad_id = padding_id(load_tokenizer(tokenizer.local()))
        own = report(session, "own conversations", [count for count in counts if "file" in count])
        if not sum(count["train"] for count in counts):
            raise HeadwaterError(
                "there are no conversations to train on",
                where="sft",
                fix="give own ones in `sft.data`, or a corpus whose pages have titles for `sft.make`",
            )
        train, heldout = EncodedExamples(output, "train"), EncodedExamples(output, "heldout")
        order = example_order(train, config.data, config.batch, config.seed)
        history = loop.train(
            TrainJob(
                label="sft",
                config=config,
                objective=NextToken(config.z_loss, sparse=True),
                source=ConversationBatches(train, config.batch, config.seed, pad_id, order),
                load_model=functools.partial(
                    build.stored_model,
                    newest_model(inputs),
                    config.lora,
                    config.precision,
                    config.gpus_per_worker,
                ),
                tokenizer=tokenizer,
                output=output,
                evaluate=Heldout(heldout, config.micro_batch, pad_id) if len(heldout) else None,
                judged_by="heldout_loss" if len(heldout) else None,
            ),
            session,
        )
        session.say(
            f"{len(train):,} conversations; loss on the answers {history[0]['loss']:.3f} → "
            f"{history[-1]['loss']:.3f}"
            + (f", held out {history[-1].get('heldout_loss', float('nan')):.3f}" if len(heldout) else "")
        )
        return {
            "conversations": len(train),
            "heldout_conversations": len(heldout),
            "shortened": sum(count["train_shortened"] for count in counts),
            "heldout_loss": history[-1].get("heldout_loss"),
            **own,
            **loop.summary(history),
        }


def _units(
    clean: Artifact | None, config: SftConfig, grounded: Artifact | None = None
) -> Iterator[dict[str, Any]]:
    if config.make and clean is not None:
        for part in kept_files(clean):
            yield {"unit": part.rsplit("/", 1)[-1].removesuffix(".parquet"), "part": part}
    for split in ("train", "heldout") if grounded is not None else ():
        yield {"unit": f"grounded-{split}", "grounded": split}
    if config.task not in (None, SEARCH):
        yield {"unit": "task", "task": config.task}
    for number, location in enumerate(config.files):
        yield {"unit": f"file-{number:05d}", "file": location}
    for number, file in enumerate(list_files(config.data or (), "sft.data")):
        yield {"unit": f"{file_prefix(file.number)}-{number:05d}", "file": file.path, "source": file.number}


def _talk(task: Task) -> Talk:
    return task.origin, [*task.prompt, {"role": "assistant", "content": task.reference}]


def _size_and_time(location: str) -> list[Any]:
    fs, path = filesystem(location)
    info = fs.get_file_info(path)
    return [location, info.size, info.mtime_ns]
