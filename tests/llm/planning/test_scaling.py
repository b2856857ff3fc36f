"""The scaling stage fits a law to small runs, and reuses finished runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Manifest
from headwater.cluster.storage.store import Store
from headwater.llm.model.shape import ModelConfig
from headwater.llm.planning.plan_report import newest_law
from headwater.llm.planning.scaling import LAW, PLOT, Scaling, ScalingConfig
from headwater.llm.planning.scaling_law import FittedLaw, Law
from headwater.llm.stages.pretrain import Pretrain, PretrainConfig

TRUE = Law(1.0, 60.0, 40.0, 0.35, 0.3)
WHOLE = PretrainConfig(steps=400, batch=8, model=ModelConfig(depth=4))
CONFIG = ScalingConfig(pretrain=WHOLE, depths=(1, 2, 3), steps=(50, 100, 400))


def test_small_runs_have_the_stages_of_batches_in_proportion() -> None:
    stages = [{"until": 1, "batch": 4}, {"until": 200, "batch": 2, "row_length": 32}]
    whole = PretrainConfig.model_validate(WHOLE.model_dump() | {"batch_stages": stages})
    small = CONFIG.model_copy(update={"pretrain": whole}).small(2, 50)
    assert [(span.steps, span.batch, span.row_length) for span in small.spans()] == [
        (25, 2, 32),
        (25, 8, None),
    ]
    assert small.sizes().before(small.steps) == 25 * 2 + 25 * 8


def test_finished_runs_are_found_and_become_a_law_that_a_later_run_finds(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    inputs = {name: store.artifact(name, "0" * 16) for name in ("tokenizer", "tokenize")}
    nothing = {"tokens": 1, "bytes": 1, "documents": 1, "shards": []}
    index = {"row_length": 64, "vocab_size": 300, "pad_id": 0, "end_id": 1}
    inputs["tokenize"].write_json("rows.json", index | {"splits": {"train": nothing, "validation": nothing}})
    keys = {name: artifact.key for name, artifact in inputs.items()}
    for depth in CONFIG.depths:
        for steps in CONFIG.steps:
            stage = Pretrain(CONFIG.small(depth, steps))
            parameters = 40_000 * depth**2
            loss = TRUE.loss(parameters, steps * 8 * 64)
            manifest = Manifest(
                stage="pretrain",
                key=stage.key(keys, {}),
                stage_version=stage.version,
                config={},
                inputs=keys,
                metrics={"parameters": parameters, "bits_per_byte": loss},
            )
            store.artifact("pretrain", manifest.key).finish(manifest)
    output = store.artifact("scaling", "1" * 16)
    with Session(store) as session:  # no run is made: Ray is not even started
        metrics = Scaling(CONFIG).run(inputs, output, session)
    assert metrics["runs"] == 9 and metrics["alpha"] == pytest.approx(TRUE.alpha, rel=0.01)
    found = json.loads(output.read_bytes(LAW))
    largest = TRUE.loss(360_000, 400 * 8 * 64)
    assert found["left_out"]["mean"] == pytest.approx(largest, rel=0.01)
    assert FittedLaw.from_json(found).predict(640_000, 4e5).mean == pytest.approx(
        TRUE.loss(640_000, 4e5), rel=0.01
    )
    assert len(output.read_bytes(f"picture/{PLOT}")) > 5000

    assert newest_law(store, keys["tokenize"]) is None
    manifest = Manifest(stage="scaling", key=output.key, stage_version=1, config={}, inputs=keys)
    output.finish(manifest)
    law = newest_law(store, keys["tokenize"])
    assert law is not None and law.points[-1].loss == pytest.approx(largest)
    assert newest_law(store, "other") is None
