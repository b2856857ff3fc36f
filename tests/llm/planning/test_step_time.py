"""Seconds of a step on GPUs, by hand: a billion parameters in bf16 on eight H100s."""

from __future__ import annotations

from typing import Any

import pytest

from headwater.llm.hardware.machines import Machine, parse_machine, read_table
from headwater.llm.planning.step_time import StepTime, exchanged_bytes, step_time

H100S = parse_machine("8xH100", read_table())
FLOPS = 989.5e12 * 0.4  # a second of passes


def step(machine: Machine = H100S, **changes: Any) -> StepTime:
    layout = {"parameters": 10**9, "precision": "bf16", "stage": 1, "offload": False, "accumulation": 4}
    return step_time(machine, **(layout | {"flops": FLOPS, "mfu": 0.4} | changes))


@pytest.mark.parametrize(("stage", "models"), [(0, 2), (1, 2), (2, 5), (3, 12)])
def test_stage_two_reduces_and_stage_three_also_gathers_for_each_micro_batch(stage: int, models: int) -> None:
    """Rajbhandari et al. 2019, section 7: 2 models' worth below stage 3, and 3 at it, per pass."""
    assert exchanged_bytes(stage, 10**9, 2, 4, 8) == pytest.approx(models * 2e9 * 7 / 8)


def test_the_parts_of_a_step_follow_each_other() -> None:
    found = step()
    assert found.passes == pytest.approx(1.0)
    assert found.exchange == pytest.approx(2 * 2e9 * 7 / 8 / 450e9)  # NVLink 4
    assert found.offload == 0
    assert found.seconds == found.passes + found.exchange


def test_several_nodes_exchange_over_their_network() -> None:
    sixteen = parse_machine("16xH100", read_table())
    assert step(sixteen).exchange == pytest.approx(2 * 2e9 * 15 / 16 / 50e9)  # 400 Gb/s per GPU
    assert step(parse_machine("8xL40S", read_table())).exchange == pytest.approx(2 * 2e9 * 7 / 8 / 32e9)


def test_an_offloaded_optimizer_pays_for_transfers_and_the_hosts_memory() -> None:
    found = step(stage=2, offload=True)
    # 0.25 GB of gradients after each of 4 passes and of weights once, at 64 GB/s; 30 bytes of 1 B parameters
    assert found.offload == pytest.approx(5 * 0.25e9 / 64e9 + 30e9 / 100e9)


def test_two_nodes_share_an_offloaded_update() -> None:
    found = step(parse_machine("16xH100", read_table()), stage=2, offload=True)
    assert found.offload == pytest.approx(5 * 0.125e9 / 64e9 + 15e9 / 100e9)


def test_a_micro_batch_of_four_without_offload_beats_one_of_eight_with_it() -> None:
    assert step(accumulation=2).seconds < step(stage=2, offload=True, accumulation=1).seconds
