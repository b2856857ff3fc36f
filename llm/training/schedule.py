"""The learning rate as a pure function of the step: there is no state to save."""

from __future__ import annotations

import math

from headwater.llm.training.config import TrainConfig


def share_of_peak(config: TrainConfig, step: int) -> float:
    """The learning rate of a step, counted from 0, as a share of the peak.

    All schedules rise linearly over the first `warmup_share` of the steps. `wsd` then stays at the peak and
    falls linearly to `final_share` over the last `decay_share` (MiniCPM, Hu et al. 2024); `cosine` falls to
    it along half a cosine (Loshchilov and Hutter 2016); `constant` stays at the peak.
    """
    warmup = max(1, round(config.warmup_share * config.steps))
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "cosine":
        progress = (step - warmup) / max(1, config.steps - warmup)
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return config.final_share + (1 - config.final_share) * fall
    decay = max(1, round(config.decay_share * config.steps))
    return max(config.final_share, min(1.0, (config.steps - step) / decay))
