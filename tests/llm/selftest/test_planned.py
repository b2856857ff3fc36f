"""Findings about the plan: one as planned passes, one that is off fails, a model too large is skipped.

No GPU is here: its memory and its measurement are given.
"""

from __future__ import annotations

import pytest

from headwater.llm.hardware.machines import Gpu, Machine
from headwater.llm.model.shape import flops_per_token
from headwater.llm.planning.calibrate import Calibration
from headwater.llm.planning.layouts import Memory
from headwater.llm.planning.plan import Work
from headwater.llm.selftest.checks import Skipped
from headwater.llm.selftest.planned import Planned, beside, layout

SMALL = Planned(depth=1, row_length=32, vocabulary=256, batch=4, micro_batch=1)
PEAK = 1e12


def machine(gigabytes: float) -> Machine:
    return Machine(1, "a GPU", Gpu(memory_gb=gigabytes, peak_tflops=1, bandwidth_gb_s=1, price_per_hour=0))


@pytest.fixture(scope="module")
def fastest() -> tuple[Work, Memory]:
    return layout(SMALL, machine(80))


def failed(fastest: tuple[Work, Memory], *, mfu: float = 0.4, peak: float = 1, state: float = 1) -> list[str]:
    """What fails on a GPU that reaches such a share of its peak, and such shares of the planned memory."""
    work, memory = fastest
    flops = work.config.batch * work.row_length * flops_per_token(work.shape(), work.row_length)
    measured = Calibration(
        machine="given",
        peak_flops=PEAK,
        start_seconds=1,
        step_seconds=flops / PEAK / mfu,
        checkpoint_seconds=1,
        evaluation_pass_seconds=1,
        end_seconds=1,
        state_bytes=round(state * (memory.parameters + memory.optimizer)),
        peak_bytes=round(peak * (memory.total - memory.reserved)),
    )
    found = beside(work, memory, measured)
    assert [each.of for each in found] == ["weights and optimizer", "peak memory", "MFU"]
    return [each.of for each in found if not each.passed]


def test_a_gpu_that_does_what_is_planned_passes_and_one_that_does_not_fails(
    fastest: tuple[Work, Memory],
) -> None:
    assert failed(fastest) == []
    assert failed(fastest, mfu=0.3) == failed(fastest, mfu=1.1) == ["MFU"]
    assert failed(fastest, peak=1.2) == failed(fastest, peak=0.8) == ["peak memory"]
    assert failed(fastest, state=1.02) == failed(fastest, state=0.98) == ["weights and optimizer"]


def test_the_fastest_layout_is_the_one_that_is_measured(fastest: tuple[Work, Memory]) -> None:
    work, memory = fastest
    assert (work.config.zero.stage, work.config.micro_batch) == (memory.zero, memory.micro_batch) == (0, 4)
    assert work.config.gpus_per_worker == 1 and not memory.offload


def test_a_model_that_no_layout_holds_is_skipped_with_what_it_needs() -> None:
    with pytest.raises(Skipped, match=r"no layout fits a GPU, the smallest takes .* [GM]B"):
        layout(SMALL, machine(0.001))
