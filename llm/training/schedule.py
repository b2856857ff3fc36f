"""The learning rate as a pure function of the step: there is no state to save."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate(
    step: int,
    steps: int,
    peak: float,
    *,
    warmup_share: float,
    decay_share: float,
    shape: Literal["wsd", "cosine", "constant"] = "wsd",
    floor: float = 0.1,
) -> float:
    """Learning rate of a step, counted from 0.

    All schedules rise linearly over the first `warmup_share` of the steps. `wsd` then stays at the peak and
    falls linearly to `floor` × peak over the last `decay_share` (MiniCPM, Hu et al. 2024); `cosine` falls to
    it along half a cosine (Loshchilov and Hutter 2016); `constant` stays at the peak.
    """
    warmup = max(1, round(warmup_share * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    if shape == "constant":
        return peak
    if shape == "cosine":
        progress = (step - warmup) / max(1, steps - warmup)
        return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
    decay = max(1, round(decay_share * steps))
    left = (steps - step) / decay
    return peak * max(floor, min(1.0, left))
