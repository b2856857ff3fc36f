"""Advantages from rewards. Pure functions on arrays.

Group estimators take `rewards` [prompts, samples] of the whole batch and `valid` of the same shape: 0 marks a
sample that could not be judged, which has no advantage and is left out of its group's mean. `gae` takes one
reward and one value per token. All are in units of the reward.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

EPSILON = 1e-4
"""Added to a deviation that advantages are divided by, as in TRL."""


def grpo(rewards: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """(r - mean) / (std + 1e-4) within each group, with the *sample* deviation (divisor n - 1).

    Shao et al. 2024 (DeepSeekMath); divisor and epsilon are those of TRL. A group of equal rewards gets
    advantages of 0.
    """
    centred, counts = _centred(rewards, valid)
    variance = (centred**2).sum(axis=1, keepdims=True) / np.maximum(counts - 1, 1)
    return centred / (np.sqrt(variance) + EPSILON)


def dr_grpo(rewards: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """r - mean within each group. Without GRPO's division, easy and hard prompts count alike.

    Liu et al. 2025, "Understanding R1-Zero-like training"; there with `normalise: constant`.
    """
    return _centred(rewards, valid)[0]


def rloo(rewards: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Each reward minus the mean of the others in its group (Ahmadian et al. 2024)."""
    centred, counts = _centred(rewards, valid)
    return centred * counts / np.maximum(counts - 1, 1)


def reinforce_pp(rewards: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """r - mean within each group, then divided by the deviation over the whole batch.

    REINFORCE++ with baseline (Hu et al. 2025). One scale for all prompts, so a group whose rewards hardly
    differ is not blown up as in GRPO.
    """
    return whitened(_centred(rewards, valid)[0], valid)


def gae(rewards: np.ndarray, values: np.ndarray, mask: np.ndarray, gamma: float, lam: float) -> np.ndarray:
    """Generalised advantage estimates: arrays [..., tokens] → the same shape, 0 where `mask` is 0.

    δ_t = r_t + γ V_(t+1) - V_t and A_t = δ_t + γ λ A_(t+1) (Schulman et al. 2016), backwards over the tokens
    whose mask is 1; the value after the last of them is 0. `returns` for the critic are A + V.
    """
    advantages = np.zeros_like(values, dtype=np.float64)
    following = np.zeros(values.shape[:-1])
    next_value = np.zeros(values.shape[:-1])
    for t in range(values.shape[-1] - 1, -1, -1):
        seen = mask[..., t] != 0
        delta = rewards[..., t] + gamma * next_value - values[..., t]
        following = np.where(seen, delta + gamma * lam * following, following)
        next_value = np.where(seen, values[..., t], next_value)
        advantages[..., t] = np.where(seen, following, 0.0)
    return advantages


def whitened(
    advantages: np.ndarray,
    valid: np.ndarray | None = None,
    total: Callable[[list[float]], list[float]] = list,
) -> np.ndarray:
    """(A - mean) / (std + 1e-4) over all entries whose `valid` is not 0; the others become 0.

    `total` sums numbers over the learners that hold the other entries.
    """
    weights = np.ones_like(advantages) if valid is None else (valid != 0).astype(np.float64)
    whole, count = total([float((advantages * weights).sum()), float(weights.sum())])
    centred = (advantages - whole / max(1.0, count)) * weights
    (squares,) = total([float((centred**2).sum())])
    return centred / (np.sqrt(squares / max(1.0, count - 1)) + EPSILON)


def _centred(rewards: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Rewards minus the mean of their group's valid ones, and the number of these [prompts, 1]."""
    weights = np.ones_like(rewards, dtype=np.float64) if valid is None else (valid != 0).astype(np.float64)
    counts = weights.sum(axis=1, keepdims=True)
    known = np.where(weights != 0, rewards, 0.0)
    means = known.sum(axis=1, keepdims=True) / np.maximum(counts, 1)
    return (known - means) * weights, counts


Estimator = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
ESTIMATORS: dict[str, Estimator] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "reinforce_pp": reinforce_pp,
}
"""The group estimators by the name that `rl.advantage` has for them."""
