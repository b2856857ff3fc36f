"""One trajectory for every objective, however the run is cut up: of 12 steps in `make test`, of 50 in the
soak. `benchmarks/training/invariance.py` tries all combinations, this a part in which every value of every
setting occurs with each objective or number of workers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.llm.trajectories import OBJECTIVES, STEPS, TOLERANCE, Case, Trajectories, deviation, losses

REFERENCES = [Case(objective) for objective in OBJECTIVES]
"""One worker, nothing sharded, each batch in one piece, a text a row."""
CASES = [
    Case(objective, stage=(number + turn) % 4, workers=workers, micro_batch=micro_batch, joined=joined)
    for number, objective in enumerate(OBJECTIVES)
    for turn, (workers, micro_batch, joined) in enumerate([(1, 1, True), (2, 2, False), (4, 8, True)])
]
TWICE = [case for case in CASES if case.workers == 2][:1]


@pytest.fixture(
    scope="module", params=[12, pytest.param(STEPS, marks=pytest.mark.soak)], ids="{} steps".format
)
def trajectories(request: pytest.FixtureRequest) -> Trajectories:
    return dict(losses([*REFERENCES, *CASES, *(replace(case, attempt=1) for case in TWICE)], request.param))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_loss_equals_that_of_one_worker_without_sharding(
    case: Case, trajectories: Trajectories
) -> None:
    reference = trajectories[Case(case.objective)]
    assert len(set(reference)) == len(reference) in (12, STEPS)
    # A frozen model would pass as well.
    quarter, learnt = len(reference) // 4, 0.95 if len(reference) == STEPS else 0.99
    assert np.mean(reference[-quarter:]) < learnt * np.mean(reference[:quarter])
    assert deviation(trajectories[case], reference) < TOLERANCE


@pytest.mark.parametrize("case", TWICE, ids=str)
def test_the_same_run_again_has_the_same_bits(case: Case, trajectories: Trajectories) -> None:
    assert trajectories[replace(case, attempt=1)] == trajectories[case]


def test_the_cases_hold_every_stage_every_number_of_workers_and_every_layout() -> None:
    assert {case.stage for case in CASES} == {0, 1, 2, 3}
    assert {(case.objective, case.joined) for case in CASES} == {(o, j) for o in OBJECTIVES for j in (0, 1)}
    assert {(case.objective, case.workers) for case in CASES} == {
        (o, w) for o in OBJECTIVES for w in (1, 2, 4)
    }
