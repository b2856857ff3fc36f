"""Intervals, the centred mean and the table."""

from __future__ import annotations

import pytest

from headwater.llm.benchmarks.results import centred_mean, outcome, table
from headwater.llm.benchmarks.scoring import Answers
from headwater.llm.benchmarks.tasks import TASKS
from headwater.llm.grounding.measures import wilson
from tests.llm.benchmarks import data


def test_an_outcome_has_every_measure_with_its_interval_and_the_cost() -> None:
    items = [TASKS["arc_easy"].item(record) for record in data.ARC] * 2
    right, wrong = [-1.0, -9.0, -9.0], [-9.0, -1.0, -9.0, -9.0]
    found = outcome("arc_easy", items, Answers([right, wrong, right, wrong], 2.5, 300, 1))
    expected = wilson(2, 4)
    assert found["acc"] == {"value": 0.5, "low": expected.low, "high": expected.high, "count": 4}
    assert found["acc_norm"]["value"] == 0.5
    assert (found["seconds"], found["tokens"], found["shortened"]) == (2.5, 300, 1)
    assert found["centred"] == pytest.approx((0.5 - 0.25) / 0.75) and found["shots"] == 0


def share(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "count": 10}


def test_the_centred_mean_is_0_for_guessing_and_takes_only_tasks_of_core() -> None:
    guessing = {"piqa": {"acc_norm": share(0.5)}, "boolq": {"acc": share(0.62)}, "sciq": {"acc": share(1.0)}}
    assert centred_mean(guessing) == {"value": 0.0, "tasks": 2, "of": 22}
    better = {"piqa": {"acc_norm": share(0.75)}, "lambada_openai": {"acc": share(0.3)}}
    mean = centred_mean(better)
    assert mean is not None and mean["value"] == pytest.approx((0.5 + 0.3) / 2)
    assert centred_mean({"sciq": {"acc": share(1.0)}}) is None


def test_the_table_has_a_column_for_each_model() -> None:
    def measured(value: float) -> dict[str, dict]:
        outcomes: dict[str, dict] = {"piqa": {"acc_norm": share(value), "acc": share(0.5)}}
        return outcomes | {"centred_mean": centred_mean(outcomes) or {}}

    metrics = {"models": {"base": measured(0.5), "rl": measured(0.75)}}
    columns, rows = table(metrics)
    assert columns == ["questions", "chance", "base", "rl"]
    assert rows["piqa, acc_norm"] == ["10", "0.50", "0.500 (0.400 to 0.600)", "0.750 (0.650 to 0.850)"]
    assert rows["piqa, centred"] == ["", "0", "0.000", "0.500"]
    assert rows["centred mean of 1 of CORE's 22 tasks"] == ["", "0", "0.000", "0.500"]
    _, with_shots = table({"models": {"base": {"piqa": metrics["models"]["base"]["piqa"] | {"shots": 10}}}})
    assert list(with_shots) == [
        "piqa (10 shots), acc_norm",
        "piqa (10 shots), acc",
        "piqa (10 shots), centred",
    ]
    columns, rows = table(metrics | {"contamination": {"piqa": {"found": 1, "checked": 7}}})
    assert columns[-1] == "in the corpus" and {len(row) for row in rows.values()} == {5}
    assert rows["piqa, acc"][-1] == "1 of 7"
