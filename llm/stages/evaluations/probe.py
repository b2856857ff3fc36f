"""The stages of `headwater probe`: questions about documents, and what a model knows of them."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import Field

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.needs import Moments, Need, pool
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Input, Stage, StageConfig
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.data_pipeline.corpus import iter_documents
from headwater.data_pipeline.split import document_fraction
from headwater.llm.examples.conversations import split_of
from headwater.llm.examples.own_data.source import DataSource, DataSources, fingerprint
from headwater.llm.inference.asking import ask
from headwater.llm.inference.base import Sampling
from headwater.llm.probes.facts import Fact, make_facts, read_facts, write_facts
from headwater.llm.probes.knowledge import Asked, examples, measure
from headwater.llm.stages.models import FOLDER, MODELS, check_base, newest
from headwater.llm.stages.rl import SPLITS, own_tasks

DOCUMENTS_PER_FACT = 4
"""Documents read per wanted fact; many have no sentence that can be understood alone."""
OWN_HELDOUT = 0.5
QUESTION_TOKENS = 40
EXAMPLES = "examples.jsonl"


class FactsConfig(StageConfig):
    """Settings of the questions."""

    questions: int = Field(200, ge=0)
    """Questions about documents that are trained on, from which examples are written."""
    heldout_questions: int = Field(200, ge=1)
    """Questions about held-out documents, which are only measured."""
    data: DataSources | None = None
    """Own questions with right answers in the place of documents. Half of them are held out."""
    seed: int = Field(0, ge=0)
    """Seed of the choice of sentences."""


class Facts(Stage[FactsConfig]):
    """Cleaned documents, and a base model that writes questions → `train.jsonl`, `heldout.jsonl`."""

    name = "facts"

    def needs(self) -> tuple[Input, ...]:
        if self.config.data:
            return ()
        return Input(("clean",), what="documents to ask about"), Input(("base",), required=False)

    def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
        return [pool()]

    def fingerprint(self, session: Session) -> dict[str, Any]:
        return fingerprint(self.config.data, "questions") if self.config.data else {}

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        config, metrics = self.config, dict[str, Any]()
        own = _own_facts(config.data) if config.data else {}
        wanted = {"train": config.questions, "heldout": config.heldout_questions}
        for split in SPLITS:
            count = wanted[split]
            if config.data:
                facts = own[split][:count]
                counts = {"questions": len(facts)}
            else:
                documents = _documents(inputs["clean"], split, DOCUMENTS_PER_FACT * count)
                write = _Writer(session, output, split, inputs["base"]) if "base" in inputs else None
                facts, counts = make_facts(documents, write, count, config.seed)
            write_facts(output, split, facts)
            metrics[split] = counts
        if not metrics["heldout"]["questions"]:
            raise HeadwaterError(
                "there is no question to ask: no held-out document has a headline, and a sentence of its own "
                "with a name or a number",
                where=inputs["clean"].location if inputs else "--questions",
                fix="give more documents, or more questions with right answers: half are held out",
            )
        return metrics


def _own_facts(sources: Sequence[DataSource]) -> dict[str, list[Fact]]:
    """The questions of both splits: half of them, by the hash of file and line."""
    found: dict[str, list[Fact]] = {"train": [], "heldout": []}
    tasks = [task for some in own_tasks(sources)[0].values() for task in some if task.reference]
    for task in tasks:
        origin = task.origin.rpartition("/")[2]
        fact = Fact(task.prompt[-1]["content"], task.reference, "", origin, "own")
        found["heldout" if document_fraction(origin) < OWN_HELDOUT else "train"].append(fact)
    return found


class _Writer:
    """A model's most likely answers to prompts."""

    def __init__(self, session: Session, output: Artifact, split: str, base: Artifact) -> None:
        self.given = session, output, f"{split} questions", Folder(base, FOLDER)

    def __call__(self, prompts: list[Any]) -> list[str]:
        return [text for (text,) in ask(*self.given, prompts, Sampling(QUESTION_TOKENS, temperature=0.0))]


def _documents(clean: Artifact, split: str, count: int) -> list[dict[str, Any]]:
    """Up to `count` documents of a split, those with the lowest hash: independent of the files' order."""
    documents = (each for each in iter_documents(clean) if split_of(each["id"]) == split)
    return heapq.nsmallest(count, documents, key=lambda each: (document_fraction(each["id"]), each["id"]))


class ProbeConfig(StageConfig):
    """Settings of how a model is asked."""

    samples: int = Field(5, ge=2)
    """Sampled answers to each question, which tell what is known."""
    temperature: float = Field(0.7, gt=0)
    """Sampling temperature of these."""
    max_new_tokens: int = Field(24, ge=1)
    """Maximum tokens of an answer."""
    system: str = ""
    """System prompt that the questions are asked with. The written examples have it, too."""
    seed: int = Field(0, ge=0)
    """Seed of the sampled answers."""
    gpus_per_worker: float = Field(0.0, ge=0)
    """GPUs per engine; 0 uses one CPU."""


class Probe(Stage[ProbeConfig]):
    """Questions and a model → `heldout.jsonl` and `train.jsonl`, a question with its answers a line, and
    `examples.jsonl`, conversations to fine-tune on."""

    name = "probe"
    runtime_fields = frozenset({"gpus_per_worker"})
    inputs = ("facts", Input(tuple(reversed(MODELS)), what="a model to ask"))

    def check_inputs(self, inputs: Mapping[str, Artifact]) -> None:
        check_base(inputs, self.name)

    def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
        return [pool(Need(1, self.config.gpus_per_worker), ("gpus_per_worker",))]

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        check_base(inputs, self.name)
        config, model = self.config, Folder(newest(inputs), FOLDER)
        sampled = Sampling(config.max_new_tokens, config.temperature, seed=config.seed)
        greedy = Sampling(config.max_new_tokens, temperature=0.0)
        metrics: dict[str, Any] = {}
        for split in reversed(SPLITS):
            facts = read_facts(inputs["facts"], split)
            prompts = [fact.prompt(config.system) for fact in facts]
            gpus = config.gpus_per_worker
            samples = ask(
                session,
                output,
                f"{split} samples",
                model,
                prompts,
                sampled,
                samples=config.samples,
                gpus=gpus,
            )
            answers = [""] * len(facts)
            if split == "heldout":
                given = ask(session, output, f"{split} answers", model, prompts, greedy, gpus=gpus)
                answers = [text for (text,) in given]
            asked = [Asked(*each) for each in zip(facts, samples, answers, strict=True)]
            _write_lines(output, f"{split}.jsonl", [each.record() for each in asked])
            metrics[split] = {"states": dict(Counter(each.state for each in asked))}
            if split == "heldout":
                metrics[split] |= {name: asdict(found) for name, found in measure(asked, asked).items()}
        taught = examples(asked, config.system)
        _write_lines(output, EXAMPLES, taught)
        metrics["examples"] = dict(Counter(example["state"] for example in taught))
        return metrics


def read_asked(probe: Artifact, split: str = "heldout") -> list[Asked]:
    """The questions of a finished probe, with the answers."""
    lines = probe.read_bytes(f"{split}.jsonl").decode().split("\n")
    return [Asked.read(json.loads(line)) for line in lines if line]


def _write_lines(output: Artifact, name: str, records: Sequence[Mapping[str, Any]]) -> None:
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    output.write_bytes(name, "".join(f"{line}\n" for line in lines).encode())
