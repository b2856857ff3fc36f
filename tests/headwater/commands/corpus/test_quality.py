"""`headwater quality train`: from files to a model."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from headwater.cli import app
from headwater.cluster.errors import HeadwaterError
from headwater.commands.corpus import quality
from headwater.data_pipeline.filters.classifiers.linear import LinearModel


def call(*arguments: str | Path) -> str:
    screen = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "console", Console(file=screen, width=200))
        app(list(map(str, arguments)), standalone_mode=False)
    return screen.getvalue()


def test_it_prints_what_each_threshold_keeps_and_writes_a_model(tmp_path: Path) -> None:
    for name, words in (("good", "river mill garden stone"), ("bad", "buy click offer login")):
        rows = [{"body": f"the {words} {number}"} for number in range(80)] + [{"other": "x"}]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = (
        "quality", "train", tmp_path / "good.jsonl", tmp_path / "bad.jsonl", "--output", tmp_path / "model",
        "--text-column", "body", "--held-out", "0.25", "--seed", "3",
    )  # fmt: skip
    screen = call(*arguments)
    assert "80 good and 80 bad texts" in screen and "AUC 1.000" in screen and "no text 2" in screen
    rows = [line.replace("│", " ").split() for line in screen.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == [f"0.{digit}" for digit in range(1, 10)]
    assert rows[4][1:3] == ["1.000", "1.000"]
    model = LinearModel.load(str(tmp_path / "model"))
    assert model.score("a garden by the river") > 0.5 > model.score("click to login")
    assert model.card.training["settings"]["seed"] == 3

    first = (tmp_path / "model" / "model.json").read_bytes()
    with pytest.raises(HeadwaterError, match=r"this folder holds a model.*--overwrite"):
        call(*arguments)
    call(*arguments, "--overwrite")
    assert (tmp_path / "model" / "model.json").read_bytes() == first
