"""A plan's figures are consistent, and a budget agrees with a published training run."""

from __future__ import annotations

from typing import Any

import pytest

from headwater.llm.hardware.machines import Machine, parse_machine, read_table
from headwater.llm.model.shape import ModelConfig
from headwater.llm.planning.budget import afford
from headwater.llm.planning.calibrate import (
    CHECKPOINT_EVERY,
    OF_STAGE,
    STEPS,
    WARM,
    Calibration,
    from_history,
    place,
)
from headwater.llm.planning.layouts import Room
from headwater.llm.planning.plan import START_SECONDS, Work, plan_gpus, plan_here
from headwater.llm.planning.plan_report import compared
from headwater.llm.planning.scaling_law import FittedLaw, Law, Point
from headwater.llm.stages.pretrain import PretrainConfig
from headwater.llm.training.zero_config import ZeroConfig

H100S = parse_machine("8xH100", read_table())
LAW = FittedLaw(
    Law(0.8, 30.0, 20.0, 0.3, 0.25),
    (Law(0.75, 30.0, 20.0, 0.3, 0.25), Law(0.85, 30.0, 20.0, 0.3, 0.25)),
    0.002,
    tuple(Point(1e8, tokens, 1.5) for tokens in (1e9, 2e9)),
)


def work(**changes: Any) -> Work:
    settings: dict[str, Any] = {"steps": 1000, "batch": 256, "micro_batch": 4, "optimizer": "muon"}
    settings |= {"model": ModelConfig(depth=20, context=2048)} | changes
    return Work("nano", PretrainConfig(**settings), 65_536, 2048, validation_rows=16)


MEASURED = Calibration(
    machine="m",
    peak_flops=1e11,
    start_seconds=20,
    step_seconds=0.5,
    checkpoint_seconds=2,
    evaluation_pass_seconds=0.25,
    end_seconds=3,
    state_bytes=1,
    peak_bytes=900_000_000,
)


def test_time_and_price_follow_from_flops_and_the_given_mfu() -> None:
    plan = plan_gpus(work(), H100S, None, mfu=0.4)
    assert plan.seconds is not None and plan.dollars is not None
    passes = plan.flops_per_token * plan.tokens / (8 * 989.5e12 * 0.4)
    # Once a step gradients in fp32 and weights in bf16, over NVLink.
    exchange = 1000 * (4 + 2) * plan.parameters * 7 / 8 / 450e9
    assert plan.seconds - START_SECONDS == pytest.approx(passes + exchange)
    assert plan.dollars == pytest.approx(plan.seconds / 3600 * 8 * 2.99)
    assert plan.loss is None and any("headwater scaling" in note for note in plan.notes)


def test_a_hundred_dollars_buy_about_the_model_that_nanochat_trains_for_a_hundred() -> None:
    """Its speedrun: depth 20, 561 M parameters, 11.2 B tokens, on eight H100s for about 100 dollars."""
    bought = afford(work(), H100S, 100.0, None)
    assert 18 <= bought.plan.depth <= 24
    assert bought.plan.tokens == pytest.approx(11.2e9, rel=0.3)
    assert bought.plan.dollars == pytest.approx(100, rel=0.01)
    assert "Chinchilla" in bought.rule
    assert bought.plan.batch % 8 == 0


def test_the_fitted_law_splits_a_budget_within_its_reach_and_not_beyond() -> None:
    near, far = (afford(work(), H100S, dollars, LAW) for dollars in (30.0, 3e6))
    assert "small runs" in near.rule and "Chinchilla" not in near.rule
    for depth in (near.plan.depth - 2, near.plan.depth + 2):
        other = Work("x", work(model=ModelConfig(depth=depth)).config, 65_536, 2048)
        plan = plan_gpus(other, H100S, LAW)
        tokens = near.plan.tokens * near.plan.flops_per_token / plan.flops_per_token
        assert near.plan.loss is not None
        assert LAW.law.loss(plan.parameters, tokens) >= 0.999 * near.plan.loss.mean
    assert "Chinchilla" in far.rule and "beyond" in far.rule


def test_the_largest_micro_batch_that_fits_grows_with_the_memory_and_with_sharding() -> None:
    large = work(model=ModelConfig(depth=36, context=2048), optimizer="adamw")
    machines = [Machine(8, name, read_table()[name]) for name in ("L4", "A100", "H200")]
    rows = [plan_gpus(large, machine, None).memory for machine in machines]
    assert [table[0].fits for table in rows] == [False, True, True]  # without sharding 18 bytes a parameter
    largest = [max(memory.micro_batch for memory in table) for table in rows]
    assert largest == sorted(largest) and largest[0] < largest[-1]
    for table in rows:
        assert all(memory.total <= 141e9 for memory in table if memory.fits)
        assert table[0].parameters > table[3].parameters


def test_a_model_that_cannot_be_built_is_refused_and_told_what_would_fit() -> None:
    """Below ZeRO 3 each of 64 workers makes 4 bytes of every parameter, and has 3 beside its libraries."""
    model = ModelConfig(depth=16, width=256, context=64)
    settings = {"model": model, "optimizer": "adamw", "precision": "bf16", "workers": 64, "batch": 64}
    small = Work("small", work(micro_batch=1, **settings).config, 1024, 16)
    plan = plan_here(small, None, None, Room(3 * small.parameters() + 0.5e9))
    assert plan.parameters == 12_855_552  # 51.4 MB in fp32
    assert plan.refused == (
        "a worker needs 0.551 GB while the model is built at ZeRO 2 and has 0.539 GB of memory"
    )
    assert plan.would_fit == ["`zero.stage: 3`", "128 such workers with `zero.stage: 3`"]


def test_gpus_that_cannot_hold_a_model_are_refused_and_more_of_them_suggested() -> None:
    large = work(model=ModelConfig(depth=24, width=4096, context=2048), optimizer="adamw")
    plan = plan_gpus(large, Machine(2, "L4", read_table()["L4"]), None)
    assert "of its device" in plan.refused and "has 24.0 GB" in plan.refused
    assert plan.would_fit[-1] == "16 such workers with `zero.stage: 3`"
    assert not plan_gpus(work(), H100S, None).refused


def test_a_plan_for_this_machine_adds_what_was_measured_to_the_formulas() -> None:
    config = work(
        steps=100,
        batch=16,
        checkpoint_every=30,
        evaluate_every=40,
        workers=2,
        zero=ZeroConfig(stage=1),
        precision="fp32",
        model=ModelConfig(depth=2, width=64, context=64),
    )
    small = Work("small", config.config, 512, 64, validation_rows=17)
    plan = plan_here(small, MEASURED, LAW)
    # 3 checkpoints, 3 evaluations of 3 passes of 2 x 4 rows
    assert plan.seconds == pytest.approx(20 + 100 * 0.5 + 3 * 2 + 3 * 3 * 0.25 + 3)
    assert plan.peak_bytes == 900_000_000 == pytest.approx(plan.memory[1].total)
    assert plan.loss is not None and plan.loss.low < plan.loss.mean < plan.loss.high
    unmeasured = plan_here(small, None, None)
    assert unmeasured.seconds is None and not unmeasured.refused, "the memory is not known"


def test_a_calibration_is_stored_under_everything_it_depends_on() -> None:
    one = work()
    names = {
        place(other.config, other.shape(), 2048, None)
        for other in (one, work(micro_batch=2), work(workers=4), work(model=ModelConfig(depth=3)))
    }
    assert len(names) == 4
    early = [work(batch_stages=[{"until": until, "batch": 64}]) for until in (5, 6)]
    staged = {place(other.config, other.shape(), 2048, None) for other in early}
    assert len(staged) == 1 and not staged & names
    longer = work(steps=5)
    assert place(longer.config, longer.shape(), 2048, None) == place(one.config, one.shape(), 2048, None)


@pytest.mark.parametrize("stages", [0, 1])
def test_start_checkpoint_and_end_times_are_read_from_step_records(stages: int) -> None:
    history, clock = [], 1010.0
    for step in range(stages * OF_STAGE + STEPS):
        early = step < stages * OF_STAGE
        warm = step % OF_STAGE < WARM if early else step - stages * OF_STAGE < WARM
        seconds = (0.5 if early else 1.0) + 2.0 * warm
        clock += seconds
        history.append({"seconds": seconds, "ended_at": clock})
        clock += 2.0 if (step + 1) % CHECKPOINT_EVERY == 0 else 0.0
    history[-1] |= {"evaluation_seconds": 4.0, "peak_flops": 1e11}
    history[-1] |= {"state_bytes": 10.0, "peak_bytes": 100.0}
    found = from_history(history, 1000.0, history[-1]["ended_at"] + 4.0 + 6.0, stages)
    # and what the first steps took longer
    assert found.start_seconds == pytest.approx(10 + 2 * 2 * (stages + 1))
    assert found.step_seconds == 1.0 and found.stage_seconds == [0.5] * stages
    assert found.checkpoint_seconds == 2.0
    assert found.evaluation_pass_seconds == 2.0
    assert found.end_seconds == 6.0


def test_the_report_compares_the_plan_with_the_measurements() -> None:
    small = Work("small", work(model=ModelConfig(depth=2, width=64)).config, 512, 64, validation_rows=8)
    plan = plan_here(small, MEASURED, LAW)
    end = {"step": 999, "seconds": 0.6, "state_bytes": 2e6, "peak_bytes": 9.9e8, "bits_per_byte": 1.5}
    rows = {row["name"]: row for row in compared(plan, [end, end], 600.0)}
    assert rows["seconds a step"]["planned"] == 0.5 and rows["seconds a step"]["actual"] == 0.6
    assert rows["a worker's memory at its peak, MB"]["actual"] == pytest.approx(990)
    assert rows["validation, bits per byte"]["low"] < rows["validation, bits per byte"]["high"]
    early = work(batch_stages=[{"until": 1, "batch": 64}], model=ModelConfig(depth=2, width=64))
    measured = MEASURED.model_copy(update={"stage_seconds": [0.1]})
    staged = compared(
        plan_here(Work("small", early.config, 512, 64), measured, None),
        [end | {"step": step, "seconds": step + 1.0} for step in range(3)],
        None,
    )
    assert [row["actual"] for row in staged if row["name"] == "seconds a step"] == [2.5]
    interrupted = compared(plan_here(small, None, None), [end], None)
    assert [row["name"] for row in interrupted] == ["a worker's weights and optimizer, MB"]
