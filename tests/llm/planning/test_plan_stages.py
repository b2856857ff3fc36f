"""A plan counts every stage of `pretrain.batch_stages` with its own speed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headwater.llm.planning.budget import afford
from headwater.llm.planning.plan import START_SECONDS, Work, plan_gpus, plan_here
from tests.llm.planning.test_plan import H100S, MEASURED, work

EARLY = [{"until": 400, "batch": 64, "row_length": 512}, {"until": 500, "batch": 128}]


def test_every_stage_of_batches_counts_with_its_own_speed() -> None:
    """64 rows cut to 512 tokens take as long as 256 rows of 512."""
    parts = [work(steps=500), work(steps=100, batch=128)]
    cut = work(steps=400)
    parts.append(Work("cut", cut.config, cut.vocab_size, 512))
    whole = plan_gpus(work(batch_stages=EARLY), H100S, None, mfu=0.4)
    plans = [plan_gpus(part, H100S, None, mfu=0.4) for part in parts]
    assert {plan.zero for plan in plans} == {whole.zero}
    assert whole.seconds is not None
    assert whole.seconds - START_SECONDS == pytest.approx(
        sum(plan.seconds - START_SECONDS for plan in plans if plan.seconds is not None)
    )
    assert whole.tokens == sum(plan.tokens for plan in plans) and whole.step_seconds == plans[0].step_seconds
    assert any("Steps 400 to 499 have 128 rows" in note for note in whole.notes)


def test_a_budget_keeps_the_stages_shares_of_steps_and_batch() -> None:
    plan = afford(work(batch_stages=EARLY), H100S, 100.0, None).plan
    cut, half = plan.batch_stages
    assert cut.until == pytest.approx(0.4 * plan.steps, abs=1) and cut.row_length == 512
    assert half.until == pytest.approx(0.5 * plan.steps, abs=1) and half.row_length is None
    assert (cut.batch, half.batch) == (plan.batch // 4, plan.batch // 2)
    assert plan.tokens == pytest.approx(11.2e9, rel=0.3)
    assert plan.tokens == pytest.approx(2048 * plan.steps * plan.batch * (0.4 / 4 + 0.1 / 2 + 0.5), rel=1e-3)
    assert plan.dollars == pytest.approx(100, rel=0.03)


def test_a_plan_for_this_machine_takes_the_measured_seconds_of_each_stage() -> None:
    stages: list[dict[str, int]] = [{"until": 30, "batch": 4}]
    usual, early = (
        replace(work(steps=100, **more), row_length=128) for more in ({}, {"batch_stages": stages})
    )
    measured = MEASURED.model_copy(update={"stage_seconds": [0.2]})
    whole, staged = plan_here(usual, MEASURED, None), plan_here(early, measured, None)
    assert whole.seconds is not None
    assert staged.seconds == pytest.approx(whole.seconds - 30 * (0.5 - 0.2))
    assert staged.step_seconds == 0.5
