"""Corrections for answers that were not sampled by the learner as it is: older weights, or an engine whose
numbers differ.

Pure functions on arrays [B, L] of log-probabilities (nats) of the same tokens: `learner` under the learner at
the beginning of the rollout batch, `rollout` as recorded when they were sampled. `mask` is 1 on generated
tokens.
"""

from __future__ import annotations

import numpy as np


def truncated_weights(
    learner: np.ndarray, rollout: np.ndarray, mask: np.ndarray, cap: float
) -> tuple[np.ndarray, np.ndarray]:
    """min(exp(learner - rollout), cap) of each token, 1 where the mask is 0; and 1 where the cap acts.

    Truncated importance sampling (Ionides 2008), per token as in Yao et al. 2025, "Your efficient RL
    framework secretly brings you off-policy RL training": the variance stays bounded, at the price of a bias.
    """
    ratios = np.exp(np.where(mask != 0, learner - rollout, 0.0))
    return np.minimum(ratios, cap) * (mask != 0) + (mask == 0), ((ratios > cap) & (mask != 0)).astype(float)


def beyond(learner: np.ndarray, rollout: np.ndarray, mask: np.ndarray, bound: float) -> np.ndarray:
    """[B] whether the geometric mean of an answer's ratios exp(learner - rollout) is outside of
    [1 / bound, bound].

    Sequence-level masks are those of Liu et al. 2025, "When speed kills stability: demystifying RL collapse
    from the training-inference mismatch"; the mean over tokens does not grow with an answer's length.
    """
    lengths = np.maximum(1, mask.sum(axis=1))
    means = (np.where(mask != 0, learner - rollout, 0.0)).sum(axis=1) / lengths
    outside: np.ndarray = np.abs(means) > np.log(bound)
    return outside
