"""Autoscaling from zero workers: nodes are added for a backlog and removed after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.acquire import Acquire
from headwater.recipe import load
from tests.cluster.autoscaling import ROOT, AutoscalingCluster, autoscaling_cluster
from tests.data_pipeline.corpora import article
from tests.llm.models import save_model
from tests.serving.batch.batch_files import bad_lines, line, records

HEADWATER = [sys.executable, "-m", "headwater"]
NODES = 3
PROMPTS = 2000
FIRST_NODE_SECONDS = 120
IDLE_NODES_SECONDS = 180
"""A pool has a pending actor to its end, so a node may be starting when its demand ends. Ray lets it start,
which takes up to a minute or two on busy cores, and then removes it like any idle node."""
pytestmark = [pytest.mark.soak, pytest.mark.ray]  # `make test` has test_pool.py and test_batch_run.py


@pytest.fixture(scope="module")
def growing() -> Iterator[AutoscalingCluster]:
    with autoscaling_cluster(NODES) as cluster:
        yield cluster


def start(cluster: AutoscalingCluster, *arguments: str) -> subprocess.Popen[str]:
    command = [*HEADWATER, *arguments, "--address", cluster.address]
    return subprocess.Popen(
        command,
        env=cluster.environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(done: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)


# -- a stage -----------------------------------------------------------------------------------
def test_a_clean_stage_gets_three_nodes_and_leaves_none(growing: AutoscalingCluster, tmp_path: Path) -> None:
    documents = tmp_path / "documents.jsonl"
    documents.write_text("".join(json.dumps({"text": article(n, 40)}) + "\n" for n in range(2400)))
    recipe = {
        "name": "growing",
        "store": str(tmp_path / "store"),
        "acquire": {"sources": [{"kind": "jsonl", "paths": [str(documents)]}], "documents_per_part": 100},
        "clean": {},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    opened = load(tmp_path / "recipe.yaml", [])
    with Session(Store(opened.store), max_workers=0) as session:
        execute(Acquire(opened.acquire), {}, session)  # here, so that what is watched is one stage
    growing.wait_for_nodes(0, IDLE_NODES_SECONDS)
    growing.forget()
    run = start(growing, "run", str(tmp_path / "recipe.yaml"), "--until", "clean")
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 0, output
    assert "acquire      found" in output
    growing.wait_for_nodes(0, IDLE_NODES_SECONDS)
    assert (growing.nodes_seen[0], max(growing.nodes_seen)) == (0, NODES)
    assert growing.most_at_work == NODES, "every node worked"
    (funnel,) = (tmp_path / "store").glob("clean/*/funnel.json")
    assert json.loads(funnel.read_text())["steps"][0]["documents_in"] == 2400


# -- a batch -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def batch(growing: AutoscalingCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a batch whose workers were killed three times and whose driver once."""
    folder = tmp_path_factory.mktemp("batch")
    save_model(folder)
    with (folder / "in.jsonl").open("wb") as stream:
        for number in range(PROMPTS):
            stream.write(line(f"prompt {number}", "news " * (number % 7 + 1), temperature=number % 2))
        stream.write(line("twice"))
        stream.writelines(content for content, _, _ in bad_lines())
    growing.wait_for_nodes(0, IDLE_NODES_SECONDS)
    growing.forget()

    def done() -> int:
        return len(list((folder / "out.work" / "_scratch" / "batch").glob("*.json")))

    def answers() -> dict[str, int]:
        rows = (folder / "out.work" / "_scratch" / "batch").glob("*.json")
        files = (folder / "out.work" / "answers" / f"{row.stem}.jsonl" for row in rows)
        return {path.name: path.stat().st_mtime_ns for path in files}

    def kill_a_worker_after(units: int, process: subprocess.Popen[str]) -> None:
        wait_until(lambda: done() >= units and len(growing.actors()) > 0, process)
        os.kill(growing.actors()[-1], signal.SIGKILL)

    first = start(growing, *arguments(folder))
    wait_until(lambda: bool(growing.worker_nodes()), first, FIRST_NODE_SECONDS)
    kill_a_worker_after(2, first)
    kill_a_worker_after(6, first)
    wait_until(lambda: done() >= 10, first)
    first.kill()
    first.communicate()
    finished = answers()
    assert len(finished) < PROMPTS // 64, "the driver died before the end"
    second = start(growing, *arguments(folder))
    kill_a_worker_after(done() + 3, second)
    assert finished.items() <= answers().items(), "what was finished is not done again"
    output, _ = second.communicate(timeout=300)
    assert second.returncode == 0, output
    return folder


def arguments(folder: Path) -> list[str]:
    names = [str(folder / name) for name in ("in.jsonl", "out.jsonl", "model")]
    return ["batch", *names[:2], "--model", names[2], "--batch-size=8", "--max-tokens=32"]


def test_no_request_is_lost_or_repeated_after_three_killed_workers_and_a_killed_driver(batch: Path) -> None:
    answered = [record["custom_id"] for record in records(batch / "out.jsonl")]
    assert answered == [f"prompt {number}" for number in range(PROMPTS)] + ["twice"]
    errors = records(batch / "out.errors.jsonl")
    expected = [(code, custom_id) for _, code, custom_id in bad_lines()]
    assert [(record["error"]["code"], record["custom_id"]) for record in errors] == expected
    assert [record["error"]["line"] for record in errors] == [PROMPTS + 2 + n for n in range(len(expected))]
    assert not (batch / "out.work").exists()


def test_autoscaled_nodes_of_a_batch_are_counted_in_node_seconds(
    batch: Path, growing: AutoscalingCluster
) -> None:
    growing.wait_for_nodes(0, IDLE_NODES_SECONDS)
    assert (growing.nodes_seen[0], max(growing.nodes_seen)) == (0, NODES)
    summary = json.loads((batch / "out.summary.json").read_text())
    assert len(summary["runs"]) == 2
    assert max(run["most_nodes"] for run in summary["runs"]) == NODES + 1
    assert summary["seconds"] < summary["node_seconds"] < (NODES + 1) * summary["seconds"]


def test_a_finished_batch_is_found_finished_without_the_cluster(batch: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in batch.glob("out*")}
    again = subprocess.run(
        [*HEADWATER, *arguments(batch)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "nothing to do" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in batch.glob("out*")} == before
