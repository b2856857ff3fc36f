"""A batch from input to output: joined in order, the same on any cluster, never overwriting other files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.filesystem import filesystem
from headwater.cluster.storage.store import Store
from headwater.serving.batch import run as batches
from headwater.serving.batch.run import BatchJob, Places
from tests.llm.models import save_model
from tests.serving.batch.batch_files import bad_lines, line, records

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("saved")).local()


@pytest.fixture
def job(model: Path, tmp_path: Path) -> BatchJob:
    content = [line(f"id {n}", "news " * (n % 3 + 1), temperature=n % 2) for n in range(40)]
    bad = [text for text, _, _ in bad_lines()]
    (tmp_path / "in.jsonl").write_bytes(b"".join([line("twice"), *content[:20], *bad, b"\n", *content[20:]]))
    return BatchJob(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), str(model), 6, 2)


def without_times(path: Path) -> list[dict[str, Any]]:
    found = records(path)
    for record in found:
        del record["response"]["body"]["created"]
    return found


def test_answers_and_errors_stand_in_the_inputs_order_and_nothing_else_is_left(
    job: BatchJob, here: Session, tmp_path: Path
) -> None:
    assert batches.finished(job) is None
    summary = batches.run(job, here)
    answers = records(tmp_path / "out.jsonl")
    assert [record["custom_id"] for record in answers] == ["twice", *(f"id {n}" for n in range(40))]
    errors = records(tmp_path / "out.errors.jsonl")
    assert [record["error"]["code"] for record in errors] == [code for _, code, _ in bad_lines()]
    assert [record["error"]["line"] for record in errors] == list(range(22, 22 + len(errors)))
    assert len({record["id"] for record in answers + errors}) == len(answers + errors)
    assert (summary["prompts"], summary["answers"], summary["errors"]) == (60, 41, 19)
    assert summary == json.loads((tmp_path / "out.summary.json").read_text()) == batches.finished(job)
    names = {path.name for path in tmp_path.glob("*.*")}
    assert names == {"in.jsonl", "out.jsonl", "out.errors.jsonl", "out.summary.json"}


@pytest.mark.soak  # `make test` has batches in this process
def test_the_number_of_workers_changes_no_answer(job: BatchJob, ray_cluster: None, tmp_path: Path) -> None:
    outputs = []
    for workers in (0, 2):
        one = replace(job, output=str(tmp_path / f"by-{workers}.jsonl"))
        with Session(Store(str(tmp_path / "store")), max_workers=workers) as session:
            batches.run(one, session)
        outputs.append(without_times(Path(one.output)))
    assert outputs[0] == outputs[1]


def test_an_output_of_other_settings_or_of_unknown_origin_is_refused_unless_overwritten(
    job: BatchJob, here: Session, tmp_path: Path
) -> None:
    (tmp_path / "out.jsonl").write_text("somebody's work")
    with pytest.raises(HeadwaterError, match="no summary file"):
        batches.finished(job)
    assert batches.finished(job, overwrite=True) is None
    assert not (tmp_path / "out.jsonl").exists()
    batches.run(job, here)
    with pytest.raises(HeadwaterError, match="made with another max tokens"):
        batches.finished(replace(job, max_tokens=5))
    with (tmp_path / "in.jsonl").open("ab") as stream:
        stream.write(line("one more"))
    with pytest.raises(HeadwaterError, match="made with another input"):
        batches.finished(job)
    assert batches.finished(job, overwrite=True) is None
    assert not list(tmp_path.glob("out.*"))


def test_an_unfinished_batch_is_not_mistaken_for_another(job: BatchJob, tmp_path: Path) -> None:
    work = Artifact(Places.of(job.output).work)
    work.write_json("plan.json", {"identity": job.identity(), "plan": {}})
    assert batches.finished(job) is None
    with pytest.raises(HeadwaterError, match="another batch size"):
        batches.finished(replace(job, batch_size=3))


def test_an_empty_input_gives_an_empty_output(job: BatchJob, here: Session, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"\n\n")
    assert batches.run(job, here)["prompts"] == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_two_runs_cannot_write_the_same_output(job: BatchJob, here: Session) -> None:
    with batches._locked(Places.of(job.output)), pytest.raises(HeadwaterError, match="another run"):
        batches.run(job, here)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"input": "missing.jsonl"}, "no such file"),
        ({"model": "."}, "not a model folder"),
        ({"output": "in.jsonl"}, "would replace the input"),
        ({"input": "out.errors.jsonl"}, "would replace the input"),
    ],
)
def test_a_missing_input_or_model_is_reported_before_any_work(
    job: BatchJob, tmp_path: Path, changes: dict[str, str], problem: str
) -> None:
    (tmp_path / "out.errors.jsonl").touch()
    located = {name: str(tmp_path / value) for name, value in changes.items()}
    with pytest.raises(HeadwaterError, match=problem):
        batches.finished(replace(job, **located))  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["function", pytest.param("command", marks=pytest.mark.soak)])
def test_input_output_and_model_may_lie_in_s3(by: str, job: BatchJob, s3_server: str, tmp_path: Path) -> None:
    bucket = f"s3://corpus/batch-{by}"
    fs, root = filesystem(bucket)
    pafs.copy_files(job.model, f"{root}/model", destination_filesystem=fs)
    pafs.copy_files(job.input, f"{root}/in.jsonl", destination_filesystem=fs)
    remote = BatchJob(f"{bucket}/in.jsonl", f"{bucket}/out.jsonl", f"{bucket}/model", 6, 2)
    if by == "function":
        with Session(Store(Places.of(remote.output).work), max_workers=0) as session:
            assert batches.run(remote, session) == batches.finished(remote)
    else:
        command = [sys.executable, "-m", "headwater", "batch", remote.input, remote.output]
        command += ["--model", remote.model, "--max-tokens=6", "--batch-size=2"]
        for state in ("done", "nothing to do"):
            done = subprocess.run(
                command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=300, check=False
            )
            assert state in done.stdout, done.stdout + done.stderr
    names = [info.path for info in fs.get_file_info(pafs.FileSelector(root)) if info.is_file]
    assert sorted(names) == [
        f"{root}/{n}" for n in ("in.jsonl", "out.errors.jsonl", "out.jsonl", "out.summary.json")
    ]
    for name in ("out.jsonl", "out.errors.jsonl"):
        (tmp_path / name).write_bytes(Artifact(bucket).read_bytes(name))
    assert len(records(tmp_path / "out.jsonl")) == 41
    assert len(records(tmp_path / "out.errors.jsonl")) == len(bad_lines())
