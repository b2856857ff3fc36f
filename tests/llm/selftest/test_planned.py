"""Findings about the plan: a measurement as planned passes, one that is off fails, a model too large is skipped.

No GPU is here: its memory and its measurement are given.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from headwater.llm.hardware.machines import Gpu, Machine
from headwater.llm.model.shape import flops_per_token
from headwater.llm.planning.calibrate import Calibration
from headwater.llm.planning.plan import Work, plan_gpus
from headwater.llm.selftest import planned
from headwater.llm.selftest.checks import Skipped
from headwater.llm.selftest.planned import Planned, on_gpu

SMALL = Planned(depth=1, row_length=32, vocabulary=256, batch=4, micro_batch=1)
PEAK = 1e12


def machine(gigabytes: float) -> Machine:
    return Machine(1, "a GPU", Gpu(memory_gb=gigabytes, peak_tflops=1, bandwidth_gb_s=1, price_per_hour=0))


def found(
    monkeypatch: pytest.MonkeyPatch, *, gigabytes: float = 80, mfu: float = 0.4, peak: float = 1, state: float = 1
) -> list[tuple[str, bool]]:
    """What is found of a GPU that reaches such a share of its peak, and such shares of the planned memory."""

    def measure(work: Work) -> Calibration:
        rows = plan_gpus(work, machine(gigabytes), None).memory
        (memory,) = [row for row in rows if row.zero == work.config.zero.stage and not row.offload]
        assert memory.micro_batch == work.config.micro_batch
        flops = work.config.batch * work.row_length * flops_per_token(work.shape(), work.row_length)
        figures = {"start_seconds": 1.0, "checkpoint_seconds": 1.0, "evaluation_pass_seconds": 1.0, "end_seconds": 1.0}
        return Calibration(
            machine="given",
            peak_flops=PEAK,
            step_seconds=flops / PEAK / mfu,
            state_bytes=round(state * (memory.parameters + memory.optimizer)),
            peak_bytes=round(peak * (memory.total - memory.reserved)),
            **figures,
        )

    monkeypatch.setattr(planned, "measure", measure)
    place: Any = SimpleNamespace(run=lambda function: machine(gigabytes), end=lambda: None)
    return [(each.of, each.passed) for each in on_gpu(SMALL, place)]


def test_a_gpu_that_does_what_is_planned_passes_and_one_that_does_not_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("weights and optimizer", "peak memory", "MFU")
    assert found(monkeypatch) == [(name, True) for name in names]
    assert found(monkeypatch, mfu=0.3) == [*((name, True) for name in names[:2]), ("MFU", False)]
    assert dict(found(monkeypatch, peak=1.2))["peak memory"] is False
    assert dict(found(monkeypatch, peak=0.8))["peak memory"] is False
    assert dict(found(monkeypatch, state=1.02))["weights and optimizer"] is False


def test_a_model_that_no_layout_holds_is_skipped_with_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Skipped, match=r"no layout fits a GPU, the smallest takes .* [GM]B"):
        found(monkeypatch, gigabytes=0.001)
