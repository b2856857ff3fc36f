"""How often a judge should be right: calibrated by trusted rankings, counted by Poisson's binomial."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from headwater.llm.rankings.margins import at_most, chances, hits


def test_the_scale_makes_trusted_margins_most_likely() -> None:
    """Of pairs of one size the share that is right, with one right and one wrong pair added."""
    trusted = [2.0] * 80 + [-2.0] * 20
    assert hits(trusted) == 80
    assert chances([2.0, -2.0], trusted) == pytest.approx([81 / 102] * 2, abs=1e-9)
    halved = 1 / (1 + (21 / 81) ** 0.5)  # half the margin has half the log-odds
    assert chances([1.0, 0.0], trusted) == pytest.approx([halved, 0.5], abs=1e-9)


def test_a_judge_that_is_always_right_or_never_or_measures_in_other_units_has_a_finite_scale() -> None:
    assert chances([3.0], [3.0] * 50)[0] == pytest.approx(51 / 52, abs=1e-9)
    assert chances([3.0], [-3.0] * 50)[0] == pytest.approx(0.5)
    assert chances([3e-6], [3e-6] * 50)[0] == pytest.approx(51 / 52, abs=1e-9)
    assert np.isfinite(chances([math.inf, math.nan], [math.inf, -math.inf, math.nan, 1.0])).all()
    assert chances([1.0], [0.0] * 20)[0] == 0.5


def test_the_probability_of_few_hits_is_the_sum_over_all_outcomes() -> None:
    each = np.array([0.9, 0.5, 0.2, 0.7])
    for count in range(5):
        sure = sum(
            math.prod(p if hit else 1 - p for p, hit in zip(each, outcome, strict=True))
            for outcome in itertools.product((0, 1), repeat=4)
            if sum(outcome) <= count
        )
        assert at_most(count, each) == pytest.approx(sure, abs=1e-12)
