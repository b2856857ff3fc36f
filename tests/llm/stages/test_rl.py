"""The rl stage through Ray, with a task and a verifier of the user's own file."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.tokens.tokenizer import save_tokenizer
from headwater.llm.inference import load_engine
from headwater.llm.rl.rollouts.journal import Journal
from headwater.llm.stages.replay import replay, through_ray
from headwater.llm.stages.rl import Rl, RlConfig
from headwater.llm.training.loop import read_history
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import save_model

ROOT = Path(__file__).resolve().parents[3]
MINE = """
import os

def letters():
    for number in range(60):
        yield f"Say the letter {chr(97 + number % 26)} {number} times.", chr(97 + number % 26)

def has_letter(answer, completion, task):
    if len(answer) % 4 == 0:
        os._exit(1)
    return float(task.reference in answer)
"""


@pytest.fixture
def base(tmp_path: Path) -> Artifact:
    folder = tmp_path / "base"
    save_model(folder)
    (folder / "tokenizer").mkdir()
    save_tokenizer(chat_tokenizer(), folder / "tokenizer")
    return Artifact(str(folder), "base", "0123456789abcdef")


def ran(
    session: Session, base: Artifact, output: Path, **settings: Any
) -> tuple[list[dict[str, float]], Artifact]:
    config = RlConfig.model_validate(
        {"task": "mine.py:letters", "verifier": "mine.py:has_letter", "workers": 1, "batch": 8, "group": 4}
        | {"micro_batch": 4, "max_new_tokens": 6, "steps": 4, "heldout_prompts": 2, "precision": "fp32"}
        | {"cpus_per_worker": 0.5, "cpus_per_rollout_worker": 0.25}
        | settings
    )
    stage = Rl(config)
    stage.check()
    artifact, _ = execute(stage, {"base": base}, session, output=Artifact(str(output), "rl", "key"))
    return read_history(artifact), artifact


@pytest.mark.ray
@pytest.mark.soak
def test_a_stage_with_a_task_and_a_verifier_of_ones_own(
    session: Session, base: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    settings: dict[str, Any] = {"advantage": "gae", "mini_batches": 2, "zero": {"stage": 1}}
    history, artifact = ran(session, base, tmp_path / "one", rollout_workers=1, **settings)
    assert len(history) == 4
    assert any(record["not_judged"] for record in history)
    assert all(0 <= record["verified"] <= 1 for record in history)
    assert "heldout_reward" in history[-1] and "value_loss" in history[0]
    engine = load_engine(artifact.local("model"))  # a language model without a value head
    assert engine.score([[5, 6]], [[7]])
    three, _ = ran(session, base, tmp_path / "three", rollout_workers=3, **settings)
    for record, other in zip(history, three, strict=True):
        assert record["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert record["answer_tokens"] == other["answer_tokens"]


KILLED = """
import sys
from pathlib import Path
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from tests.llm.stages.test_rl import ahead

if __name__ == "__main__":
    folder, workers = Path(sys.argv[1]), int(sys.argv[2])
    with Session(Store(str(folder / "store")), num_cpus=2) as session:
        ahead(session, Artifact(str(folder / "base"), "base", "0123456789abcdef"), folder, workers)
"""
AHEAD: dict[str, Any] = {
    "max_staleness": 2,
    "importance_cap": 2.0,
    "steps": 24,
    "checkpoint_every": 3,
    "heldout_prompts": 0,
    "verifier": "length",
    "max_failures": 20,
}


def ahead(session: Session, base: Artifact, folder: Path, rollout_workers: int) -> Artifact:
    """The artifact of a run whose rollout workers sample ahead, begun or gone on with."""
    settings = AHEAD | {"rollout_workers": rollout_workers, "cpus_per_rollout_worker": 0.25}
    return ran(session, base, folder / "ahead", **settings)[1]


def processes(driver: int, title: str) -> list[int]:
    """Those that a driver's Ray has started and that have this title."""
    import psutil

    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.cmdline()[:1] and title in process.cmdline()[0]:
                found.append(process.pid)
    return found


def entries(folder: Path) -> int:
    return len(list((folder / "ahead/journal").glob("*.rollouts")))


@pytest.mark.ray
@pytest.mark.soak
def test_a_run_whose_processes_are_killed_is_the_same_as_its_replay(
    base: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """SIGKILL for learner, rollout worker and driver; the run has 4, then 2, then 3 rollout workers."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    Path("driver.py").write_text(KILLED)
    titles = {"RolloutWorker": 0, "TrainWorker": 0}
    for workers, goal in ((4, 8), (2, 16), (3, 25)):
        driver = subprocess.Popen(
            [sys.executable, "driver.py", str(tmp_path), str(workers)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            start_new_session=True,
        )
        deadline, killed = time.monotonic() + 380, set[str]()
        try:
            while driver.poll() is None and time.monotonic() < deadline:
                done = entries(tmp_path)
                for title in titles:
                    if title not in killed and goal - 6 <= done < goal - 2:
                        for pid in processes(driver.pid, title)[:1]:
                            os.kill(pid, signal.SIGKILL)
                            killed.add(title)
                            titles[title] += 1
                if done >= goal:
                    os.kill(driver.pid, signal.SIGKILL)
                time.sleep(0.05)
            assert driver.wait(10) == (0 if goal > 24 else -signal.SIGKILL)
        finally:
            driver.kill()
    assert min(titles.values()) >= 2, titles
    output = Artifact(str(tmp_path / "ahead"), "rl", "key")
    config = RlConfig.model_validate(output.finished().config)
    found = [Journal(output).read(number) for number in range(24)]
    assert sorted(p for batch in found for p in batch.positions) == list(range(24 * 2))
    assert {batch.number - min(batch.versions) for batch in found} <= {0, 1, 2}
    again = Artifact(str(tmp_path / "again"), "rl", "key")
    train = through_ray(request.getfixturevalue("session"))
    assert replay(config, {"base": base}, output, again, train) is None
    assert not math.isnan(output.finished().metrics["rollout_wait"])
