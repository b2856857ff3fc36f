"""Advantages from rewards. Pure functions on arrays [prompts, samples]."""

from __future__ import annotations

import numpy as np

EPSILON = 1e-4


def grpo(rewards: np.ndarray) -> np.ndarray:
    """(r - mean) / (std + 1e-4) within each group, with the *sample* deviation (divisor n - 1).

    Shao et al. 2024 (DeepSeekMath); divisor and epsilon are those of TRL. A group of equal rewards gets
    advantages of 0.
    """
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    return centred / (rewards.std(axis=1, ddof=1, keepdims=True) + EPSILON)


def rloo(rewards: np.ndarray) -> np.ndarray:
    """Each reward minus the mean of the others in its group (Ahmadian et al. 2024)."""
    samples = rewards.shape[1]
    return (rewards - rewards.mean(axis=1, keepdims=True)) * samples / (samples - 1)


ESTIMATORS = {"grpo": grpo, "rloo": rloo}
