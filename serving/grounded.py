"""The stage `grounded`: questions with numbered passages and cited answers, made from the cleaned documents.

`train.jsonl` and `heldout.jsonl` have one task per line: `messages` (prompt and answer), `question`,
`passages`, `answer`, `answerable`, `document_id`, `kind`. Fine-tuning and reinforcement learning train on the
first, the evaluation measures on the second, which comes from other documents.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.needs import Moments, pool
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Input, Stage, StageConfig
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.data_pipeline.corpus import iter_documents
from headwater.data_pipeline.split import document_fraction
from headwater.llm.examples.conversations import split_of
from headwater.llm.grounding.making import Wanted, make_tasks
from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.questions import Messages
from headwater.llm.grounding.tasks import GroundedTask, write_tasks
from headwater.llm.inference.asking import ask
from headwater.llm.inference.base import Sampling
from headwater.llm.stages.models import PRETRAINED, check_base, newest_model
from headwater.serving.retrieval.index import IndexConfig
from headwater.serving.retrieval.search import PassageIndex

DOCUMENTS_PER_TASK = 8
"""Documents read per wanted task; many have no sentence that can be understood alone."""
FOUND_PER_PASSAGE = 4
"""Passages searched per passage of a task: an unanswerable one leaves out those of its own document."""


class GroundedConfig(StageConfig):
    """Settings of the stage `grounded`: tasks made from the corpus, whose answers cite passages of it."""

    tasks: int = Field(400, ge=1)
    """Tasks to train on, from documents that are not held out."""
    heldout_tasks: int = Field(160, ge=0)
    """Tasks to evaluate on, from held-out documents, in their documents' words."""
    unanswerable: float = Field(0.25, ge=0, le=0.9)
    """Share of the tasks whose passages have no answer. Their right answer says so."""
    passages: int = Field(3, ge=1, le=20)
    """Passages per task. Tasks to train on have fewer at times, as a strict search finds."""
    rephrase: bool = True
    """Let the model say the answers in other words, where a check finds these right."""
    max_new_tokens: int = Field(40, ge=1)
    """Maximum tokens of a question or a rephrasing that the model writes."""
    seed: int = Field(0, ge=0)
    """Seed of the choice of claims, kinds and passages."""


class Grounded(Stage[GroundedConfig]):
    """Cleaned documents, their index and a model → `train.jsonl`, `heldout.jsonl`."""

    name = "grounded"
    version = 3

    def needs(self) -> tuple[Input, ...]:
        return (
            Input(("clean",), what="documents to ask about"),
            Input(("index",), what="an index to find passages in"),
            replace(PRETRAINED, what="a model that writes questions"),
        )

    def check_inputs(self, inputs: Mapping[str, Artifact]) -> None:
        check_base(inputs, self.name)

    def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
        return [pool()]

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        config, clean, index = self.config, inputs["clean"], inputs["index"]
        manifest = index.manifest()
        assert manifest is not None, f"{index.location} is an input, so it has finished"
        sizes = IndexConfig.model_validate(manifest.config)
        search = _Search(PassageIndex(index.location), config.passages)
        metrics: dict[str, Any] = {}
        wanted: dict[Literal["train", "heldout"], int] = {
            "train": config.tasks,
            "heldout": config.heldout_tasks,
        }
        for split, count in wanted.items():
            training = split == "train"
            writer = Writer(session, output, split, newest_model(inputs), config.max_new_tokens)
            tasks: list[GroundedTask] = []
            counts: dict[str, int] = {"tasks": 0}
            if count:
                tasks, counts = make_tasks(
                    _documents(clean, split, DOCUMENTS_PER_TASK * count),
                    search,
                    writer,
                    Wanted(
                        tasks=count,
                        unanswerable=config.unanswerable,
                        passages=config.passages,
                        passage_words=sizes.passage_words,
                        overlap_words=sizes.overlap_words,
                        vary=training,
                        paired=training,
                        rephrase=config.rephrase and training,
                        seed=config.seed,
                    ),
                )
            write_tasks(output, split, tasks)
            metrics[split] = counts
            session.say(f"{split}: {_told(counts, count)}")
        if not metrics["train"]["tasks"]:
            raise HeadwaterError(
                "no document has a claim that a question can be made from",
                where=clean.location,
                fix="give more documents, or remove the section `grounded`",
            )
        return metrics


@dataclass
class Writer:
    """The model's most likely answers to many prompts. A resumed run does not write them again."""

    session: Session
    output: Artifact
    split: str
    model: Folder
    max_new_tokens: int
    calls: int = 0

    def __call__(self, prompts: list[Messages]) -> list[str]:
        self.calls += 1
        label = f"{self.split} {('questions', 'rephrasings')[self.calls - 1]}"
        sampling = Sampling(self.max_new_tokens, temperature=0.0)
        return [text for (text,) in ask(self.session, self.output, label, self.model, prompts, sampling)]


@dataclass
class _Search:
    """The passages found for a question, however weakly related: what a task's passages are taken from."""

    index: PassageIndex
    passages: int

    def __call__(self, question: str) -> Sequence[Passage]:
        return self.index.search(question, limit=FOUND_PER_PASSAGE * self.passages, min_relevance=0.0)


def _documents(clean: Artifact, split: str, count: int) -> list[dict[str, str]]:
    """Up to `count` documents of a split, those with the lowest hash: independent of the files' order."""
    documents = (each for each in iter_documents(clean) if split_of(each["id"]) == split)
    return heapq.nsmallest(count, documents, key=lambda each: (document_fraction(each["id"]), each["id"]))


def _told(counts: Mapping[str, int], wanted: int) -> str:
    kinds = [f"{counts[name]:,} {name}" for name in ("written", "headline", "rule") if counts.get(name)]
    told = f"{counts['tasks']:,} of {wanted:,} tasks ({', '.join(kinds) or 'none'})"
    rest = ("unanswerable", "rephrased", *sorted(name for name in counts if "refused" in name))
    return "; ".join([told, *(f"{name} {counts[name]:,}" for name in rest if name in counts)])
