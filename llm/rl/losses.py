"""The policy loss of the RL learner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headwater.llm.training.objectives import Batch
from headwater.llm.training.shared_prompts import answer_losses

if TYPE_CHECKING:
    import torch


class ClippedPolicy:
    """PPO's clipped surrogate over generated tokens, plus a KL penalty towards the reference model.

    Batch (all [B, L+1] except `advantages` [B]): `ids`; `mask`, 1 on generated tokens; `old_logprobs` and
    `reference_logprobs` of each token, in nats. Averaged over the tokens of the whole global batch (Yu et al.
    2025, DAPO): each token counts the same in long and short answers. Answers of a micro-batch
    that share their prompt are read with it once: with `micro_batch` equal to `group` that is every group.
    """

    def __init__(self, clip: float, kl: float, temperature: float) -> None:
        self.clip, self.kl, self.temperature = clip, kl, temperature

    def weight(self, batch: Batch) -> float:
        return float(batch["mask"][:, 1:].sum())

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        import torch

        mask = batch["mask"][:, 1:]
        losses = answer_losses(model, batch["ids"], batch["mask"], temperature=self.temperature)
        # Prompts first: at a low temperature exp() of their log-probabilities is infinite, and inf × 0 is nan.
        logprobs = torch.where(mask != 0, -losses, 0)
        log_ratio = logprobs - batch["old_logprobs"][:, 1:] * mask
        surrogate = clipped_surrogate(log_ratio, batch["advantages"][:, None], self.clip)
        penalty = kl_k3(logprobs, batch["reference_logprobs"][:, 1:] * mask)
        loss = ((surrogate + self.kl * penalty) * mask).sum()
        return loss, {
            "kl": (penalty * mask).detach().sum(),
            "rollout_mismatch": log_ratio.detach().abs().sum(),
            "clipped": ((log_ratio.exp() - 1).abs() > self.clip).float().mul(mask).sum(),
        }


def clipped_surrogate(log_ratio: torch.Tensor, advantages: torch.Tensor, clip: float) -> torch.Tensor:
    """-min(ratio × A, clip(ratio, 1 ± clip) × A) (Schulman et al. 2017)."""
    import torch

    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def kl_k3(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Unbiased, non-negative estimate of KL(policy, reference) from samples of the policy.

    exp(d) - d - 1 with d = reference - policy (Schulman 2020, "Approximating KL divergence").
    """
    difference = reference - logprobs
    return difference.exp() - difference - 1
