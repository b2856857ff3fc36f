"""Fitting recovers the law that generated the losses, with calibrated intervals."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict

import numpy as np
import pytest

from headwater.llm.planning.scaling_law import FittedLaw, Law, Point, fit

CHINCHILLA = Law(1.69, 406.4, 410.7, 0.34, 0.28)
"""Hoffmann et al. 2022, section D.3."""
RUNS = list(itertools.product((1e6, 2e6, 4e6, 8e6), (5e6, 2e7, 8e7)))


def points(noise: float, seed: int = 0) -> list[Point]:
    generator = np.random.default_rng(seed)
    return [Point(n, d, CHINCHILLA.loss(n, d) * np.exp(noise * generator.normal())) for n, d in RUNS]


def test_the_published_law_is_found_from_twelve_of_its_values() -> None:
    found = fit(points(0.0), refits=2).law
    for name in ("e", "a", "b", "alpha", "beta"):
        assert getattr(found, name) == pytest.approx(getattr(CHINCHILLA, name), rel=1e-3), name


def test_the_interval_holds_the_truth_ten_times_further_and_is_wider_there_than_nearby() -> None:
    fitted = fit(points(0.003), refits=40)
    near, far = fitted.predict(6e6, 6e7), fitted.predict(2e7, 3.2e8)
    assert near.low < CHINCHILLA.loss(6e6, 6e7) < near.high
    assert far.low < CHINCHILLA.loss(2e7, 3.2e8) < far.high
    assert (far.high - far.low) / far.mean > (near.high - near.low) / near.mean
    assert fitted.reach(2e7, 3.2e8) == pytest.approx(10)


def test_one_failed_run_does_not_distort_the_law() -> None:
    spoilt = points(0.0)
    spoilt[4] = Point(spoilt[4].parameters, spoilt[4].tokens, 1.3 * spoilt[4].loss)
    assert fit(spoilt, refits=1).law.loss(2e7, 3.2e8) == pytest.approx(CHINCHILLA.loss(2e7, 3.2e8), rel=0.01)


def test_a_law_survives_its_file() -> None:
    fitted = fit(points(0.002), refits=3)
    assert FittedLaw.from_json(json.loads(json.dumps(asdict(fitted)))) == fitted


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="six runs"):
        fit(points(0.0)[:5])
