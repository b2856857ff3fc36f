"""Learning rate, momentum and weight decay as pure functions of the step: there is no state to save.

Steps count from 0.
"""

from __future__ import annotations

import math

from headwater.llm.training.config import TrainConfig


def share_of_peak(config: TrainConfig, step: int) -> float:
    """The learning rate of a step as a share of the peak.

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


def muon_momentum(config: TrainConfig, step: int) -> float:
    """Muon's momentum in a step. With `muon_momentum_schedule` it rises linearly from `start` over the first
    `warmup` steps (nanochat: 0.85 to 0.95 over 300) and falls linearly to `end` over the last `cooldown`
    (modded-nanogpt); where both overlap, it is the lower one."""
    usual, own = config.muon_momentum, config.muon_momentum_schedule
    if own is None:
        return usual
    risen = min(1.0, step / own.warmup) if own.warmup else 1.0
    left = min(1.0, (config.steps - step) / own.cooldown) if own.cooldown else 1.0
    return min(own.start + (usual - own.start) * risen, own.end + (usual - own.end) * left)


def weight_decay(config: TrainConfig, step: int) -> float:
    """The weight decay of the matrices in a step: `linear` falls to 0 after the last step (nanochat),
    `learning_rate` is proportional to the learning rate (modded-nanogpt)."""
    if config.weight_decay_schedule == "linear":
        return config.weight_decay * (1 - step / config.steps)
    if config.weight_decay_schedule == "learning_rate":
        return config.weight_decay * share_of_peak(config, step)
    return config.weight_decay
