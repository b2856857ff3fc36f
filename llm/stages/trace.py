"""Which documents a training stage read in a step, and in which steps it read a document.

Everything is computed from the settings and the stage's inputs, or read from the journal of an rl stage whose
rollout workers sample ahead: it also works for unfinished runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.explain import token_places
from headwater.data_pipeline.tokens.shards import TokenRows
from headwater.llm.examples.encoded import EncodedExamples
from headwater.llm.rl.rollouts.journal import Journal, JournalledOrder
from headwater.llm.rows import row_documents
from headwater.llm.rows.order import BatchOrder, Visit
from headwater.llm.stages.data import ranked_prompts
from headwater.llm.stages.data.own_data import example_order
from headwater.llm.stages.pretrain import PretrainConfig, batch_order
from headwater.llm.stages.rl import RlConfig, prompt_order, tasks_of


@dataclass(frozen=True)
class Part:
    """What one origin (a document, a line of a file, a ranking) contributed to one row of a batch."""

    place: int
    """Index of the row in the batch, from 0."""
    origin: str
    """A document id, `FILE:LINE` of given conversations, or the file of a ranking."""
    where: str
    """The row: shard and number, or the number of the example."""
    span: str = ""
    """Token range within the row."""


class Reading(Protocol):
    """What a stage reads, step by step."""

    def parts(self, step: int) -> list[Part]: ...

    def visits(self, origin: str, steps: int) -> list[tuple[Visit, str]]:
        """The visits of the first `steps` steps to it, in order, each with the row."""
        ...


class RowReading:
    """Packed rows (pretrain)."""

    def __init__(self, rows: TokenRows, plan: BatchOrder) -> None:
        self.rows, self.plan = rows, plan

    def parts(self, step: int) -> list[Part]:
        return [
            Part(p.place, p.document_id, f"{p.shard} row {p.row}", f"{p.start}–{p.end - 1}")
            for p in row_documents.row_documents(self.rows, self.plan, step)
        ]

    def visits(self, origin: str, steps: int) -> list[tuple[Visit, str]]:
        places = token_places(self.rows.artifact, origin)
        found = row_documents.visits(self.rows, self.plan, places, steps)
        return [(visit, "{} row {}".format(*self.rows.place(visit.row))) for visit in found]


class ExampleReading:
    """Conversations (sft) or pairs (reward) made from documents."""

    def __init__(self, examples: EncodedExamples, plan: BatchOrder) -> None:
        self.examples, self.plan = examples, plan

    def parts(self, step: int) -> list[Part]:
        return [
            Part(place, origin, f"example {index}")
            for place, index in enumerate(self.plan.indices(step).tolist())
            for origin in self.examples.origins(index)
        ]

    def visits(self, origin: str, steps: int) -> list[tuple[Visit, str]]:
        indices = self.examples.made_from(origin)
        found = sorted(visit for index in indices for visit in self.plan.visits(index, steps))
        return [(visit, f"example {visit.row}") for visit in found]


class TaskReading:
    """Prompts made from documents, with sampled answers (rl)."""

    def __init__(self, documents: list[str], plan: BatchOrder) -> None:
        self.documents, self.plan = documents, plan

    def parts(self, step: int) -> list[Part]:
        indices = self.plan.indices(step).tolist()
        return [Part(place, self.documents[i], f"prompt {i}") for place, i in enumerate(indices)]

    def visits(self, origin: str, steps: int) -> list[tuple[Visit, str]]:
        indices = [i for i, name in enumerate(self.documents) if name == origin]
        found = sorted(visit for index in indices for visit in self.plan.visits(index, steps))
        return [(visit, f"prompt {visit.row}") for visit in found]


def _rows(config: PretrainConfig, inputs: Mapping[str, Artifact], output: Artifact) -> Reading:
    rows = TokenRows(inputs["tokenize"], "train")
    return RowReading(rows, batch_order(rows, config))


def _examples(config: Any, inputs: Mapping[str, Artifact], output: Artifact) -> Reading:
    """Conversations (sft) or pairs (dpo, reward)."""
    if not output.files("train", ".arrow"):
        raise HeadwaterError(
            "the stage has not written its examples yet", where=output.location, fix="start the stage first"
        )
    examples, weight = EncodedExamples(output, "train"), getattr(config, "rankings_weight", 1.0)
    return ExampleReading(examples, example_order(examples, config.data, config.batch, config.seed, weight))


def _tasks(config: RlConfig, inputs: Mapping[str, Artifact], output: Artifact) -> Reading:
    tasks = tasks_of(config, inputs)["train"]
    if config.rankings:
        tasks = [*tasks, *ranked_prompts.kept_tasks(output)["train"]]
    documents = [task.origin for task in tasks]
    order = prompt_order(config, len(documents))
    if config.max_staleness:
        order = JournalledOrder(Journal(output), order.batch, config.mini_batches, config.epochs)
    return TaskReading(documents, order)


READINGS: dict[str, Callable[[Any, Mapping[str, Artifact], Artifact], Reading]] = {
    "pretrain": _rows,
    "sft": _examples,
    "dpo": _examples,
    "reward": _examples,
    "rl": _tasks,
}
"""Stage → its reading, from settings, inputs and output."""


def reading(stage: str, config: Any, inputs: Mapping[str, Artifact], output: Artifact) -> Reading:
    """Raises HeadwaterError for a stage that does not train, or has not written its examples yet."""
    check_stage(stage)
    return READINGS[stage](config, inputs, output)


def is_held_out(output: Artifact, origin: str) -> bool:
    """Whether examples of a stage were made from this origin, but none to train on."""
    if not output.files("heldout", ".arrow"):
        return False
    return bool(EncodedExamples(output, "heldout").made_from(origin))


def check_stage(stage: str) -> None:
    """Raises HeadwaterError for a stage that does not train."""
    if stage not in READINGS:
        raise HeadwaterError(f"{stage} does not train in steps", fix=f"choose one of {', '.join(READINGS)}")


def check_step(step: int, steps: int) -> None:
    """Raises HeadwaterError for a step that the run does not have."""
    if not 0 <= step < steps:
        raise HeadwaterError(
            f"step {step} is not in this run of {steps} steps", fix=f"choose a step from 0 to {steps - 1}"
        )
