"""A store for the console to show: a corpus and its funnel, runs with curves, a report card, measured
prompts."""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.cluster.runtime.run_record import RunRecord, StageRecord
from headwater.cluster.storage.artifact import Artifact, Manifest
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.clean.card import write_card
from headwater.data_pipeline.clean.funnel import StepCount
from headwater.data_pipeline.clean.part_counts import CountWorker, PartCounts
from headwater.data_pipeline.corpus import REJECTED, kept_files
from headwater.llm.evaluation.measures import Metric, Report, StageSummary
from headwater.llm.evaluation.report import write_report
from headwater.llm.examples.system_prompts import SYSTEM_PROMPTS
from headwater.llm.training.telemetry.records import HISTORY, dump
from tests.serving.conftest import clean_artifact, documents

CLEAN, PRETRAIN, RL, EVALUATE, BIAS = ("0" * 16, "1" * 16, "2" * 16, "3" * 16, "4" * 16)
SPAM = "https://spam.example/buy"
COPY = "https://news.example/copy"


def fill(store: Store) -> None:
    """Write all artifacts and the records of two runs: one finished, one in pretraining."""
    _corpus(store)
    _trained(store, "pretrain", PRETRAIN, {"clean": CLEAN}, _losses(80))
    _trained(store, "rl", RL, {"pretrain": PRETRAIN}, _rewards(20))
    _evaluation(store)
    _bias(store)
    _run(store, "news", ["clean", "pretrain", "rl", "evaluate"])
    running = store.artifact("pretrain", "5" * 16)
    _history(running, _losses(30))
    record = RunRecord(store, "again")
    record.expect(4)
    record.stage_done(StageRecord(stage="clean", key=CLEAN, found=True, seconds=0.1))
    record.stage("pretrain", running)


def _manifest(artifact: Artifact, inputs: dict[str, str], metrics: dict[str, Any], **config: Any) -> None:
    manifest = Manifest(
        stage=artifact.stage,
        key=artifact.key,
        stage_version=1,
        config=config,
        inputs=inputs,
        metrics=metrics,
        started_at=f"2026-11-30T02:0{artifact.key[0]}:00",
        seconds=12.5,
        versions={"headwater": "test"},
    )
    artifact.finish(manifest)


def _corpus(store: Store) -> None:
    kept = documents()
    clean = clean_artifact(store, kept)
    row = {"title": "Buy now", "source": "pages.jsonl", "score": 0.91, "threshold": 0.2, "duplicate_of": None}
    rejected = [
        row | {"id": "spam", "url": SPAM, "step": "gopher", "reason": "top_2_gram"},
        row
        | {"id": "copy", "url": COPY, "title": "Copy", "step": "dedup", "reason": "near_duplicate"}
        | {"duplicate_of": kept[0].id},
    ]
    parts = [PurePosixPath(name).stem for name in kept_files(clean)]
    for number, part in enumerate(parts):
        with clean.create(f"{REJECTED}/{part}.parquet") as stream:
            pq.write_table(pa.Table.from_pylist(rejected).slice(0, 0 if number else None), stream)
    steps = [StepCount("read"), StepCount("gopher"), StepCount("dedup")]
    for step in steps:
        for _ in kept:
            step.keep(500, 500)
    steps[0].keep(400, 400)
    steps[0].keep(400, 400)
    steps[1].drop(400, "top_2_gram")
    steps[1].keep(400, 400)
    steps[2].drop(400, "near_duplicate")
    rows = [step.row() for step in steps]
    clean.write_json("funnel.json", {"steps": rows, "replaced": {}})
    counts = PartCounts(CountWorker(clean)({"unit": part})["counts"] for part in parts)
    write_card(clean, counts, [{"kind": "jsonl", "paths": ["pages.jsonl"]}], rows, {})
    _manifest(clean, {}, {"documents_kept": len(kept)})


def _losses(steps: int) -> list[dict[str, float]]:
    found = []
    for step in range(steps):
        record = {"step": float(step), "loss": 4 * math.exp(-step / 25) + 2, "learning_rate": 1e-3}
        if step % 10 == 9:
            record["validation_loss"] = record["loss"] + 0.1
        found.append(record)
    found[3]["loss"] = math.nan
    return found


def _rewards(steps: int) -> list[dict[str, float]]:
    return [{"step": float(step), "loss": 0.1 / (step + 1), "reward": step / steps} for step in range(steps)]


def _history(artifact: Artifact, history: list[dict[str, float]]) -> None:
    artifact.write_bytes(HISTORY, "".join(map(dump, history)).encode())


def _trained(
    store: Store, stage: str, key: str, inputs: dict[str, str], history: list[dict[str, float]]
) -> None:
    artifact = store.artifact(stage, key)
    _history(artifact, history)
    _manifest(
        artifact, inputs, {"steps": len(history), "final_loss": history[-1]["loss"]}, steps=len(history)
    )


def _evaluation(store: Store) -> None:
    evaluation = store.artifact("evaluate", EVALUATE)
    with evaluation.create_folder("report") as folder:
        write_report(folder, report_card())
    _manifest(evaluation, {"rl": RL}, {})


def report_card() -> Report:
    metrics = [Metric("bits_per_byte", 1.25)]
    return Report("Report card of news", metrics=metrics, stages=[StageSummary("rl", RL, 12.5)])


def _bias(store: Store) -> None:
    def measured(unknown: float) -> dict[str, Any]:
        share = {"value": unknown, "low": unknown - 0.05, "high": unknown + 0.05, "count": 180}
        none = {"value": math.nan, "low": math.nan, "high": math.nan, "count": 0}
        return {"questions": {"all": {"unknown": share, "stereotyped": none}}}

    systems = {"none": measured(0.2), "careful": measured(0.6)}
    _manifest(
        store.artifact("bias", BIAS), {"rl": RL}, {"systems": systems}, system={**SYSTEM_PROMPTS}, pairs=5
    )


def _run(store: Store, name: str, stages: list[str]) -> None:
    keys = {"clean": CLEAN, "pretrain": PRETRAIN, "rl": RL, "evaluate": EVALUATE}
    with RunRecord(store, name) as record:
        record.expect(len(stages))
        for stage in stages:
            record.stage(stage, store.artifact(stage, keys[stage]))
            seconds = 12.5 * (1 + stages.index(stage))
            record.stage_done(StageRecord(stage=stage, key=keys[stage], found=False, seconds=seconds))
