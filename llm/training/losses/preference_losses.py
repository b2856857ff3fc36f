"""Losses of preference pairs, as pure functions of plain tensors.

`chosen` and `rejected` belong to the better and the worse answer to one prompt. They are log-probabilities
(nats, at most 0) of whole answers under the model in training: a *sum* over an answer's tokens or, where a
paper normalises by length, their *mean*. `reference_…` are the same under the frozen model that training
started from. Only `bradley_terry` takes rewards. All are [B] in fp32. Each function returns the loss of each
pair [B], `kto` that of each answer; nothing is averaged over pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

NEARLY_CERTAIN = -1e-6
"""Mean log-probability above which `orpo` takes no odds: those of a certain answer are infinite."""


def bradley_terry(
    chosen: torch.Tensor, rejected: torch.Tensor, *, margin: float = 0.0, centring: float = 0.0
) -> torch.Tensor:
    """-log σ(chosen - rejected - margin) + centring × (chosen + rejected)², of rewards.

    Bradley and Terry 1952. `margin`: difference at which a pair counts as undecided (Llama 2, Touvron et al.
    2023, equation 2). `centring` keeps the mean of both rewards near 0, which the first term leaves open
    (Eisenstein et al. 2023, equation 2, with 0.01).
    """
    import torch.nn.functional as functional

    loss = -functional.logsigmoid(chosen - rejected - margin)
    return loss + centring * (chosen + rejected).square() if centring else loss


def dpo(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """-log σ(β h), with h = log-ratio of chosen - log-ratio of rejected, from sums.

    Rafailov et al. 2023, equation 7. With `label_smoothing` ε a pair is the wrong way round with probability
    ε: (1 - ε) × the loss + ε × that of the reversed pair (Mitchell 2023, "A note on DPO with noisy
    preferences").
    """
    import torch.nn.functional as functional

    h = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
    loss = -functional.logsigmoid(h)
    if not label_smoothing:
        return loss
    return (1 - label_smoothing) * loss - label_smoothing * functional.logsigmoid(-h)


def ipo(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    *,
    beta: float,
) -> torch.Tensor:
    """(h - 1 / 2β)², with h as in `dpo`: Azar et al. 2023, equation 17, where β is τ. From sums, as there."""
    h = (chosen - reference_chosen) - (rejected - reference_rejected)
    return (h - 1 / (2 * beta)).square()


def kto(
    policy: torch.Tensor, reference: torch.Tensor, desirable: torch.Tensor, kl: torch.Tensor, *, beta: float
) -> torch.Tensor:
    """1 - σ(±β (log-ratio - kl)) of each *answer*, + for a desirable one and - for others, from sums.

    Ethayarajh et al. 2024, section 4, with both weights λ at 1: a pair has one answer of each kind.
    `desirable` is bool. `kl` is their reference point, an estimate of KL(policy ‖ reference): the mean
    log-ratio of answers that belong to other prompts, at least 0, without a gradient.
    """
    sign = desirable.to(policy.dtype) * 2 - 1
    return 1 - (sign * beta * (policy - reference - kl.detach())).sigmoid()


def simpo(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float, gamma: float) -> torch.Tensor:
    """-log σ(β chosen - β rejected - γ), from *means*, without a reference: Meng et al. 2024, equation 6."""
    return bradley_terry(beta * chosen, beta * rejected, margin=gamma)


def orpo(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float) -> torch.Tensor:
    """-chosen - β log σ(log odds of chosen - log odds of rejected), from *means*, without a reference.

    Hong et al. 2024, equations 6 and 7, where β is λ: the loss of fine-tuning on the better answer, per
    token, and the odds ratio, where p is exp(mean) and the odds are p / (1 - p).
    """
    import torch.nn.functional as functional

    return -chosen - beta * functional.logsigmoid(log_odds(chosen) - log_odds(rejected))


def log_odds(mean: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) for p = exp(mean)."""
    certain = mean.clamp(max=NEARLY_CERTAIN)
    return certain - (-certain.expm1()).log()
