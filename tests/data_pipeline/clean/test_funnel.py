"""The funnel's picture."""

from __future__ import annotations

import collections
import io

import matplotlib.image

from headwater.data_pipeline.clean.funnel import StepCount, picture


def test_long_names_and_reasons_stay_inside_the_picture() -> None:
    reasons = {"gopher_below_alpha_threshold": 98, "gopher_short_doc": 38, "gopher_too_many_bullets": 24}
    counts = [
        StepCount("gopher_repetition", 3749, 3749),
        StepCount("gopher_quality", 3749, 3589, reasons=collections.Counter(reasons)),
    ]
    pixels = matplotlib.image.imread(io.BytesIO(picture(counts)))
    assert (pixels[:, :5] == 1).all() and (pixels[:, -5:] == 1).all(), "both edges are white"
    assert (pixels != 1).any()


def test_a_funnel_without_steps_is_a_picture_too() -> None:
    assert picture([]).startswith(b"\x89PNG")
