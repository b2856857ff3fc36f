"""Output and errors of `headwater plan` and `headwater scaling`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from typer.testing import CliRunner

from headwater.cli import app
from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage import object_store
from headwater.cluster.storage.store import Store
from headwater.commands.runs.plan import law_of, work_of
from headwater.commands.runs.scaling import default_steps, scaling
from headwater.llm.planning.scaling import ScalingConfig
from headwater.llm.planning.scaling_law import FittedLaw, Law, Point
from headwater.recipe import load
from tests.headwater.command import headwater

QUICKSTART = str(Path(__file__).resolve().parents[4] / "recipes" / "quickstart.yaml")
LAW = Law(1.0, 30.0, 20.0, 0.3, 0.25)
FITTED = FittedLaw(LAW, (LAW,), 0.01, (Point(1e6, 1e6, 3.0),))


def plan(*options: str) -> str:
    result = CliRunner().invoke(app, ["plan", QUICKSTART, *options])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_a_plan_for_gpus_has_every_zero_stage_a_price_and_what_a_budget_buys(tmp_path: Path) -> None:
    made = json.loads(plan("--gpus", "8xH100", "--budget", "100", "--json", "--set", f"store={tmp_path}"))
    assert [(row["zero"], row["offload"]) for row in made["memory"]] == [
        (0, False), (1, False), (2, False), (3, False), (2, True), (3, True)
    ]  # fmt: skip
    assert made["target"] == "8xH100" and made["parameters"] == 2_078_400
    assert made["dollars_low"] < made["dollars"] < made["dollars_high"]
    assert made["budget"]["plan"]["dollars"] == pytest.approx(100, rel=0.02)
    assert made["loss"] is None


def test_prices_of_the_users_own_change_the_price_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("H100: {price_per_hour: 29.9}\n")
    common = ("--gpus", "H100", "--json", "--set", f"store={tmp_path}")
    usual, dear = (json.loads(plan(*common, *more)) for more in ((), ("--prices", str(tmp_path / "p.yaml"))))
    assert dear["dollars"] == pytest.approx(10 * usual["dollars"])
    assert dear["seconds"] == usual["seconds"]


def test_the_text_names_tokens_memory_time_price_and_the_loss_of_a_law(tmp_path: Path) -> None:
    Store(str(tmp_path)).folder("runs/quickstart").write_json("scaling.json", asdict(FITTED))
    text = " ".join(plan("--gpus", "2xA100", "--set", f"store={tmp_path}").split())
    for expected in (
        "1,228,800 in 150 steps",
        "per worker, ",
        "price $",
        "time ",
        "bits per byte",
        "ZeRO rows",
    ):
        assert expected in text, expected


def test_an_unmeasured_machine_gets_memory_and_no_time_when_it_may_not_be_measured(tmp_path: Path) -> None:
    made = json.loads(plan("--no-measure", "--json", "--set", f"store={tmp_path}"))
    assert made["seconds"] is None and made["workers"] == 2 and made["zero"] == 2
    assert any("Not measured" in note for note in made["notes"])


def test_a_model_that_no_worker_can_hold_is_refused_before_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1.01e9))
    result = CliRunner().invoke(app, ["plan", QUICKSTART, "--set", f"store={tmp_path}"])
    assert isinstance(result.exception, HeadwaterError)
    assert "a worker needs 0." in str(result.exception) and "has 0.505 GB of memory" in str(result.exception)
    assert "memory per worker" in result.output, "the figures are shown first"


def test_json_of_a_refused_plan_says_what_would_fit(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "Tiny: {memory_gb: 2.11, peak_tflops: 1, bandwidth_gb_s: 1, price_per_hour: 1}\n"
    )
    options = ["--gpus", "Tiny", "--prices", str(tmp_path / "p.yaml"), "--json", "--set", f"store={tmp_path}"]
    result = CliRunner().invoke(app, ["plan", QUICKSTART, *options])
    assert isinstance(result.exception, HeadwaterError)
    made = json.loads(result.output)
    assert made["refused"].startswith("a worker needs") and made["refused"] in str(result.exception)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--budget", "5"), "give --gpus"),
        (("--gpus", "8xH10"), "did you mean H100"),
        (("--prices", "no.yaml"), "does not exist"),
        (("--set", "pretrain.gpus_per_worker=1"), "this machine has none"),
    ],
)
def test_an_impossible_plan_is_refused(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    with pytest.raises(HeadwaterError, match=said):
        plan(*options, "--no-measure", "--set", f"store={tmp_path}")


def test_a_recipe_that_is_not_tokenized_is_planned_from_its_settings(tmp_path: Path) -> None:
    recipe = load(QUICKSTART, [f"store={tmp_path}"])
    work = work_of(recipe, Store(str(tmp_path)))
    assert (work.vocab_size, work.row_length, work.validation_rows) == (4096, 512, 0)
    assert law_of(recipe, Store(str(tmp_path))) is None


def test_a_plan_needs_no_access_to_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "ATTEMPTS", 1)
    closed = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }
    code, shown = headwater(
        *("plan", QUICKSTART, "--gpus", "8xH100", "--json", "--set", "store=s3://bucket/x"), **closed
    )
    assert code == 0, shown
    made = json.loads(shown)
    assert made["parameters"] == 2_078_400
    assert made["notes"][0].startswith("s3://bucket/x cannot be read: planned from the recipe's settings")


def test_small_runs_differ_from_the_recipe_only_in_size_length_and_learning_rate() -> None:
    recipe = load(QUICKSTART)
    assert default_steps(recipe, 3) == (37, 75, 150)
    small = ScalingConfig(pretrain=recipe.pretrain, depths=(1, 2), steps=(10, 20, 40)).small(1, 20)
    assert (small.model.depth, small.steps, small.evaluate_every) == (1, 20, 20)
    assert small.learning_rate == pytest.approx(recipe.pretrain.learning_rate * 3**0.5, rel=1e-3)
    assert (small.batch, small.optimizer, small.zero) == (16, "muon", recipe.pretrain.zero)


@pytest.mark.parametrize(
    ("depths", "said"), [("1,2", "six runs"), ("1,x", "invalid numbers"), ("0,1,2", "less than 1")]
)
def test_too_few_small_runs_and_invalid_numbers_are_refused(depths: str, said: str) -> None:
    with pytest.raises(HeadwaterError, match=said):
        scaling(Path(QUICKSTART), depths=depths, steps="10,20")
