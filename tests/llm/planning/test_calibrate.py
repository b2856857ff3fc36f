"""Calibration: a few real steps are measured on this machine and stored."""

from __future__ import annotations

import pytest

from headwater.cluster.runtime.session import Session
from headwater.llm.model.shape import ModelConfig
from headwater.llm.planning.calibrate import calibrate, place, read_calibration
from headwater.llm.planning.plan import Work, plan_here
from headwater.llm.stages.pretrain import PretrainConfig
from headwater.llm.training.zero_config import ZeroConfig


@pytest.mark.soak  # `make test` has test_plan.py
def test_a_measurement_agrees_with_the_formulas_and_is_found_again(session: Session) -> None:
    config = PretrainConfig(
        steps=40,
        batch=4,
        micro_batch=1,
        workers=2,
        cpus_per_worker=0.5,
        zero=ZeroConfig(stage=1),
        optimizer="muon",
        model=ModelConfig(depth=2, width=64, context=32),
    )
    work = Work("small", config, 512, 32, validation_rows=4)
    measured = calibrate(config, work.shape(), 32, session)
    name = place(config, work.shape(), 32, None)
    assert read_calibration(session.store, name) == measured
    assert session.store.folder("plans").files() == [name]  # and nothing else is left
    assert 0 < measured.step_seconds < 10 and 1 < measured.start_seconds < 200
    assert measured.peak_flops > 1e9
    plan = plan_here(work, measured, None)
    assert plan.state_bytes == pytest.approx(measured.state_bytes, rel=0.1)
    assert plan.peak_bytes == measured.peak_bytes > 2e8
    assert plan.seconds is not None and plan.seconds > 40 * measured.step_seconds
