"""`headwater probe`: models asked about a recipe's documents, before and after."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.headwater.command import HERE, headwater
from tests.llm.grounding.test_making import TOWNS
from tests.llm.models import foreign_model

FILTERS = ("language", "gopher_repetition", "gopher_quality", "c4", "fineweb", "minhash_dedup")
"""Steps that would drop the short pages of this test."""


def recipe(folder: Path) -> Path:
    pages, lines = folder / "pages.jsonl", []
    for number in range(60):
        text = (
            f"The council voted to rebuild the old bridge near {TOWNS[number % 12]} for {number + 10} pounds."
        )
        page = {"url": f"https://a.example/{number}", "title": "Old bridge to be rebuilt", "text": text}
        lines.append(json.dumps(page) + "\n")
    pages.write_text("".join(lines))
    sections = {
        "name": "own",
        "store": str(folder / "store"),
        "acquire": {"sources": [{"kind": "jsonl", "paths": [str(pages)]}]},
        "clean": {name: {"enabled": False} for name in FILTERS},
        "base": {"model": foreign_model(folder, "llama").path("model")},
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(sections))
    return folder / "own.yaml"


def test_a_second_model_is_asked_the_same_questions_and_has_its_own_column(tmp_path: Path) -> None:
    own = recipe(tmp_path)
    code, output = headwater("run", own, *HERE)
    assert code == 0, output
    options = ("--count", "4", "--heldout", "3", "--samples", "2", *HERE)
    code, output = headwater("probe", own, *options, "--json")
    assert code == 0, output
    alone = json.loads(output)
    assert alone["models"]["base"]["hallucinated"]["count"] == 3 and alone["made"]["train"]["questions"] == 4
    assert len(Path(alone["examples"]["base"]).read_text().splitlines()) == 4
    other = foreign_model(tmp_path / "after", "llama", 1).location
    code, output = headwater("probe", own, f"{other}/model", *options)
    assert code == 0, output
    (head,) = [line for line in output.splitlines() if "3 held-out questions" in line]
    assert "base" in head and "after" in head
    assert "refused, of what base did not know" in output and alone["examples"]["base"] in output


def test_a_model_alone_needs_questions(tmp_path: Path) -> None:
    code, output = headwater("probe", tmp_path / "model")
    assert code == 1 and output.count("\n") == 1
    assert "there are no documents to ask about" in output and "--questions FILE" in output


def test_bias_has_a_column_for_each_model_and_system_prompt(tmp_path: Path) -> None:
    model = foreign_model(tmp_path, "llama").path("model")
    code, output = headwater("bias", model, "--pairs", "1", "--store", tmp_path / "store", *HERE)
    assert code == 0, output
    head, *rows = [line for line in output.splitlines() if "│" in line or "┃" in line]
    assert "36 questions, 24 pairs" in head and "careful" in head and "fair" in head
    assert any("leaning, race" in row for row in rows) and any("the same sentence" in row for row in rows)
