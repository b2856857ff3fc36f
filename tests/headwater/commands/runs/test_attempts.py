"""`headwater runs`: every attempt of a run, and how two runs differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data_pipeline.corpora import article
from tests.headwater.command import HERE, headwater
from tests.headwater.sections import PRETRAINING


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two runs that differ in one setting; the first was started twice, and its second attempt failed."""
    folder = tmp_path_factory.mktemp("runs")
    rows = [{"text": article(n, 12 + n % 2 * 6), "url": f"https://example.org/{n}"} for n in range(30)]
    (folder / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = PRETRAINING | {
        "name": "first",
        "store": str(folder / "store"),
        "acquire": {"sources": [{"kind": "jsonl", "paths": [str(folder / "pages.jsonl")]}]},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run = ("run", folder / "recipe.yaml", *HERE, "--until", "clean")
    for more in (
        [],
        ["--from", "pretrain", "--until", "pretrain"],
        ["--set", "name=second", "--set", "clean.gopher_quality.min_words=200"],
    ):
        code, output = headwater(*run, *more)
        assert code == (1 if "--from" in more else 0), output
    yield folder / "store"


def read_json(*arguments: object) -> dict[str, Any]:
    code, output = headwater(*arguments, "--json")
    assert code == 0, output
    found: dict[str, Any] = json.loads(output)
    return found


def test_every_attempt_is_listed_with_its_end_and_keeps_its_own_log(store: Path) -> None:
    attempts = read_json("runs", "list", "--store", store)["attempts"]
    names = [(each["recipe"], each["attempt"], each["state"]) for each in attempts]
    assert names == [("first", 1, "finished"), ("first", 2, "failed"), ("second", 1, "finished")]
    assert "cannot start at pretrain" in attempts[1]["error"]
    lines = [json.loads(line) for line in (store / "runs/first/1/log.jsonl").read_text().splitlines()]
    assert any("stage clean" in line["message"] for line in lines)
    assert "stage clean" not in (store / "runs/first/2/log.jsonl").read_text()
    code, output = headwater("runs", "list", "--store", store)
    assert code == 0 and "first/2" in output and "cannot start at pretrain" in output


def test_two_runs_differ_in_what_was_set_and_what_came_of_it(store: Path) -> None:
    found = read_json("runs", "diff", "first/1", "second", "--store", store)["differences"]
    by_name = {(one["kind"], one["name"]): (one["a"], one["b"]) for one in found}
    assert by_name["setting", "clean.gopher_quality.min_words"] == (50, 200)
    assert by_name["setting", "name"] == ("first", "second")
    assert {name for kind, name in by_name if kind == "setting"} == {"name", "clean.gopher_quality.min_words"}
    assert {name for kind, name in by_name if kind == "stage"} == {"clean"}
    assert by_name["metric", "clean.documents_kept"] == (30, 15)
    assert ("metric", "clean.documents_in") not in by_name
    code, output = headwater("runs", "diff", "first/1", "second", "--store", store)
    assert code == 0 and "-50.0%" in output


def test_a_run_does_not_differ_from_itself_and_one_that_is_missing_is_named(store: Path) -> None:
    code, output = headwater("runs", "diff", "second", "second/1", "--store", store)
    assert code == 0 and "do not differ" in output
    for name in ("third", "first/9"):
        code, output = headwater("runs", "diff", "second", name, "--store", store)
        assert code == 1 and f"no such run: {name}" in output
    code, output = headwater("runs", "diff", "second", "first/x", "--store", store)
    assert code == 1 and "not of the form RUN or RUN/ATTEMPT" in output


def test_status_shows_the_newest_attempt_of_each_run(store: Path) -> None:
    runs = {run["recipe"]: run for run in read_json("status", "--store", store)["runs"]}
    assert {name: (run["attempt"], run["state"]) for name, run in runs.items()} == {
        "first": (2, "failed"),
        "second": (1, "finished"),
    }
    assert [stage["stage"] for stage in runs["second"]["stages"]] == ["acquire", "clean"]
    assert [run["recipe"] for run in read_json("status", "first", "--store", store)["runs"]] == ["first"]


def test_artifacts_are_one_json_document_with_lineage(store: Path) -> None:
    listed = read_json("show", "--store", store)["artifacts"]
    assert [each["stage"] for each in listed] == ["acquire", "clean", "clean"]
    assert all(each["bytes"] > 0 and each["files"] > 0 for each in listed)
    key = listed[1]["key"]
    shown = read_json("show", f"clean/{key[:6]}", "--store", store)
    assert shown["artifact"]["metrics"]["documents_in"] == 30
    assert shown["lineage"] == {
        "stage": "clean",
        "key": key,
        "made_from": [{"stage": "acquire", "key": listed[0]["key"], "made_from": []}],
    }
    code, output = headwater("show", f"clean/{key[:6]}", "--store", store)
    assert code == 0 and "min_words: 50" in output and f"acquire/{listed[0]['key']}" in output
