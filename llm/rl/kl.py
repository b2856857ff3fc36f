"""Estimates of KL(policy, reference) from tokens that the policy sampled (Schulman 2020, "Approximating KL
divergence").

Pure functions of two tensors of log-probabilities (nats) of the same tokens, elementwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def k1(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """log p - log q: unbiased, noisy, of either sign. As a loss it teaches nothing: the mean of its gradient
    is 0. It belongs into the reward."""
    return logprobs - reference


def k2(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """(log p - log q)² / 2: biased, but its gradient's mean is that of the KL divergence."""
    return (logprobs - reference).square() / 2


def k3(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """exp(d) - d - 1 with d = log q - log p: unbiased and never negative.

    As a loss, the mean of its gradient is that of KL(reference, policy).
    """
    difference = reference - logprobs
    return difference.exp() - difference - 1


ESTIMATORS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
"""By the name that `rl.kl_estimator` has for them."""
