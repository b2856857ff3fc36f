"""`headwater selftest`: each check is a row that can fail alone, and the exit code says if one did."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

from headwater.llm.selftest import generation, suite, training
from headwater.llm.selftest.checks import Check
from headwater.llm.selftest.place import Place
from tests.headwater.command import headwater

SIZES = training.Sizes()


def dies(place: Place) -> Iterator[Any]:
    yield place.run(os.abort)


def smallest(cpu: Place) -> Iterator[Check]:
    """One check of each kind that needs no Ray and no compiler, one that kills its process, one of a bound
    that no machine keeps."""
    yield Check("dies", partial(dies, cpu))
    for stage, precision in ((0, "bf16"), (2, "bf16"), (3, "fp32")):
        make = partial(training.as_plain, SIZES, cpu, precision, stage)  # type: ignore[arg-type]
        yield Check(f"training: ZeRO {stage}, {precision}", make)
    yield Check("packed", partial(training.packed, SIZES, cpu, "fp32"))
    yield Check("generation", partial(generation.generated, SIZES, cpu, "fp32"))
    yield Check("moved", partial(training.moved, SIZES, cpu, cpu, (3, 1), 1e-5))
    yield Check("strict", partial(training.moved, SIZES, cpu, cpu, (0, 3), -1.0))


@pytest.fixture(scope="module")
def told() -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and name of a check → its row."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(suite, "of_cpu", smallest)
        code, printed = headwater("selftest", "--json")
    document = json.loads(printed)
    assert document["ok"] is False and document["versions"]["torch"]
    return code, {row["check"]: row for row in document["checks"]}


def test_every_check_of_a_right_machine_passes(told: tuple[int, dict[str, dict[str, Any]]]) -> None:
    _, rows = told
    wrong = {name: row for name, row in rows.items() if row["result"] != "passed"}
    assert wrong.keys() == {"dies", "strict"}, wrong
    right = [row for name, row in rows.items() if name not in wrong]
    assert len(right) == 6 and all(row["figure"] and row["expected"] for row in right)


def test_a_check_whose_process_dies_is_a_row_and_the_next_ones_go_on(
    told: tuple[int, dict[str, dict[str, Any]]],
) -> None:
    _, rows = told
    assert rows["dies"]["result"] == "failed" and "signal 6" in rows["dies"]["reason"]
    assert next(iter(rows)) == "dies"


def test_a_failed_check_shows_its_figure_and_exits_with_1(
    told: tuple[int, dict[str, dict[str, Any]]],
) -> None:
    code, rows = told
    assert code == 1
    assert rows["strict"]["result"] == "failed"
    assert "off by" in rows["strict"]["figure"] and rows["strict"]["expected"].endswith("-1")


def test_a_table_of_the_chosen_checks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [Check("one", lambda: [training.compared([2.0, 1.0], [2.0, 1.0], 0.1, "itself")])]
    monkeypatch.setattr(suite, "of_cpu", lambda cpu: [*checks, Check("two", partial(dies, cpu))])
    code, printed = headwater("selftest", "--only", "one")
    assert code == 0 and "passed" in printed and "2.0000 → 1.0000" in printed
    assert "1 passed, 0 failed, 0 skipped" in printed and "two" not in printed
    code, printed = headwater("selftest", "--only", "three")
    assert code == 1 and "no check has such a name" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_an_error() -> None:
    code, printed = headwater("selftest", "--gpu")
    assert code == 1 and "torch finds no GPU" in printed and "nvidia-smi" in printed


@pytest.mark.soak
@pytest.mark.ray
def test_all_checks_of_a_cpu_pass() -> None:
    code, printed = headwater("selftest", "--json")
    rows = json.loads(printed)["checks"]
    assert code == 0, rows
    assert {row["check"] for row in rows if row["check"].startswith("plan, depth 2: ")} == {
        f"plan, depth 2: {figure}" for figure in ("weights and optimizer", "peak memory", "MFU")
    }
    assert sum(row["check"].startswith("training") for row in rows) == 8
