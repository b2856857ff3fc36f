"""The rl stage through Ray, with a task and a verifier of the user's own file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.tokens.tokenizer import save_tokenizer
from headwater.llm.inference import load_engine
from headwater.llm.stages.rl import Rl, RlConfig
from headwater.llm.training.loop import read_history
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import save_model

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
    config = RlConfig(
        task="mine.py:letters",
        verifier="mine.py:has_letter",
        workers=1,
        batch=8,
        group=4,
        micro_batch=4,
        max_new_tokens=6,
        steps=4,
        heldout_prompts=2,
        cpus_per_worker=0.5,
        cpus_per_rollout_worker=0.25,
        precision="fp32",
        **settings,
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
