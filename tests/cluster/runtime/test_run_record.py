"""The run's record and logs in the store."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime import logs
from headwater.cluster.runtime.run_record import Progress, Record, RunRecord, StageRecord, read_record
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.store import Store


def test_a_record_tells_stage_progress_and_end(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with RunRecord(store, "mine") as run:
        run.stage("clean", store.artifact("clean", "0123"))
        run.progress(Progress(label="judge", done=5, total=10, unit="documents", rate=2.0))
        deadline = time.monotonic() + 10
        while (seen := read_record(store, "mine")) is None or seen.progress is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert (seen.state, seen.stage, seen.progress.done) == ("running", "clean", 5)
        run.stage_done(StageRecord(stage="clean", key="0123", found=False, seconds=1.0))
    ended = read_record(store, "mine")
    assert ended is not None and ended.state == "finished" and ended.progress is None
    assert store.runs() == {"mine": [1]}


def test_a_run_that_fails_says_why_and_one_that_is_interrupted_is_stopped(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(HeadwaterError), RunRecord(store, "failing"):
        raise HeadwaterError("no such bucket", where="s3://nowhere")
    with pytest.raises(KeyboardInterrupt), RunRecord(store, "stopped"):
        raise KeyboardInterrupt
    failed, stopped = read_record(store, "failing"), read_record(store, "stopped")
    assert failed is not None and (failed.state, failed.error) == ("failed", "s3://nowhere: no such bucket")
    assert stopped is not None and stopped.state == "stopped"


def test_a_running_record_without_a_heartbeat_is_lost() -> None:
    now = time.time()
    assert Record(recipe="x", heartbeat=now).shown_state(now) == "running"
    assert Record(recipe="x", heartbeat=now - 600).shown_state(now) == "lost"
    assert Record(recipe="x", state="finished", heartbeat=now - 600).shown_state(now) == "finished"


def test_log_lines_are_json_with_run_and_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logs.RUN_VARIABLE, "mine")
    monkeypatch.setenv(logs.STAGE_VARIABLE, "clean/0123")
    formatter = logs.JsonLines()
    try:
        raise ValueError('a "quoted"\nreason')
    except ValueError as error:
        line = logging.LogRecord(
            "headwater", logging.ERROR, "f.py", 1, "part %d", (3,), (ValueError, error, error.__traceback__)
        )
    written = formatter.format(line)
    assert "\n" not in written
    fields = json.loads(written)
    assert (fields["run"], fields["stage"], fields["message"]) == ("mine", "clean/0123", "part 3")
    assert fields["level"] == "ERROR" and 'a "quoted"\nreason' in fields["error"]


def test_the_logs_of_a_run_in_an_object_store_go_there(s3_server: str, tmp_path: Path) -> None:
    store = Store("s3://corpus/records")
    store.check_writable()
    (tmp_path / "run.log").write_text("noise\n")
    with RunRecord(store, "far", tmp_path) as run:
        (tmp_path / "log.jsonl").write_text('{"message": "last words"}\n')
        run.stage("clean", store.artifact("clean", "0123"))
    folder = store.folder("runs/far/1")
    assert folder.read_bytes("run.log") == b"noise\n"
    assert b"last words" in folder.read_bytes("log.jsonl")
    assert Record.model_validate(folder.read_json("run.json")).state == "finished"


def test_a_session_keeps_the_record_of_its_run(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with Session(store, run="mine") as session:
        with session.progress("counting", 10, "things") as shown:
            shown.advance(4)
        assert session.record is not None and session.record.record.progress is not None
        assert session.record.record.progress.done == 4
    ended = read_record(store, "mine")
    assert ended is not None and ended.state == "finished" and ended.pid == os.getpid()


def test_every_start_of_a_run_is_an_attempt_and_keeps_what_the_one_before_left(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for message in ("first", "second"):
        with RunRecord(store, "mine") as run:
            run.folder.write_bytes("log.jsonl", message.encode())
    assert store.runs() == {"mine": [1, 2]}
    assert store.folder("runs/mine/1").read_bytes("log.jsonl") == b"first"
    newest, first = read_record(store, "mine"), read_record(store, "mine", 1)
    assert newest is not None and newest.attempt == 2
    assert first is not None and first.attempt == 1
    assert read_record(store, "mine", 3) is None and read_record(store, "other") is None


def test_the_logs_of_an_attempt_in_an_object_store_are_not_overwritten_by_the_next(
    s3_server: str, tmp_path: Path
) -> None:
    store = Store("s3://corpus/attempts")
    for message in ("first", "second"):
        (tmp_path / "run.log").write_text(message)  # of a driver's own folder, new with each
        with RunRecord(store, "far", tmp_path):
            pass
    logs_of = [store.folder(f"runs/far/{number}").read_bytes("run.log") for number in (1, 2)]
    assert logs_of == [b"first", b"second"]


def test_the_record_of_a_store_of_version_0_1_is_read_and_counted_before_all_attempts(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.folder("runs/old").write_json("run.json", {"recipe": "old", "state": "failed", "started": 1.0})
    old = read_record(store, "old")
    assert store.runs() == {"old": [0]} and old is not None and (old.state, old.attempt) == ("failed", 0)
    with RunRecord(store, "old"):
        pass
    newest, before = read_record(store, "old"), read_record(store, "old", 0)
    assert store.runs() == {"old": [0, 1]}
    assert newest is not None and newest.state == "finished"
    assert before is not None and before.state == "failed"
