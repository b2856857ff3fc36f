"""Policy losses, as pure functions of plain tensors, and the one objective of the RL learner.

Conventions: [B, L] is answers × tokens after the first; `logprobs` and `old` are log-probabilities (nats) of
the same tokens under the policy and under the weights that sampled them; `advantages` is [B, 1] or [B, L];
`mask` is 1 on generated tokens. Where it is 0, log-probabilities are 0 and results are unspecified. `low` and
`high` clip the probability ratio to [1 - low, 1 + high].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from headwater.llm.model.critic import logits_and_values
from headwater.llm.rl import kl as kl_estimators
from headwater.llm.training.losses.objectives import Batch
from headwater.llm.training.losses.shared_prompts import answer_losses
from headwater.llm.training.losses.token_losses import cross_entropy

if TYPE_CHECKING:
    import torch

Normalise = Literal["tokens", "sequences", "constant"]


class Surrogate(NamedTuple):
    loss: torch.Tensor
    """[B, L], of each token."""
    clipped: torch.Tensor
    """[B, L], where the ratio is outside of its range."""


def ppo_clip(
    logprobs: torch.Tensor,
    old: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    low: float,
    high: float,
) -> Surrogate:
    """-min(ratio × A, clip(ratio) × A) of each token (Schulman et al. 2017).

    With `high` above `low` it is DAPO's clip-higher (Yu et al. 2025, 0.2 and 0.28), which lets unlikely
    tokens grow further.
    """
    return _clipped((logprobs - old).exp(), advantages, low, high)


def gspo(
    logprobs: torch.Tensor,
    old: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    low: float,
    high: float,
) -> Surrogate:
    """PPO's surrogate with one ratio per answer: the geometric mean of its tokens' (Zheng et al. 2025).

    Each token of an answer has the answer's loss; `normalise: sequences` makes it the paper's. Ratios are
    close to 1: the paper clips to 3e-4 and 4e-4.
    """
    lengths = mask.sum(dim=1, keepdim=True).clamp(min=1)
    mean = ((logprobs - old) * mask).sum(dim=1, keepdim=True) / lengths
    loss, clipped = _clipped(mean.exp(), advantages, low, high)
    return Surrogate(loss.expand_as(logprobs), clipped.expand_as(logprobs))


def cispo(
    logprobs: torch.Tensor,
    old: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    low: float,
    high: float,
) -> Surrogate:
    """-clip(ratio) × A × log p, with no gradient through the ratio (MiniMax 2025, M1).

    A clipped token keeps a gradient, of bounded weight, where PPO's has none.
    """
    ratio = (logprobs - old).exp().detach()
    bounded = ratio.clamp(1 - low, 1 + high)
    return Surrogate(-bounded * advantages * logprobs, bounded != ratio)


def value_clip(values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """max((v - R)², (clip(v, old ± clip) - R)²) / 2, elementwise: the critic's loss of PPO's reference code
    (Schulman et al. 2017; Huang et al. 2022, detail 9)."""
    import torch

    near = old + (values - old).clamp(-clip, clip)
    return torch.maximum((values - returns).square(), (near - returns).square()) / 2


def _clipped(ratio: torch.Tensor, advantages: torch.Tensor, low: float, high: float) -> Surrogate:
    import torch

    bounded = ratio.clamp(1 - low, 1 + high)
    return Surrogate(-torch.minimum(ratio * advantages, bounded * advantages), bounded != ratio)


PolicyLoss = Callable[
    ["torch.Tensor", "torch.Tensor", "torch.Tensor", "torch.Tensor", float, float], Surrogate
]
LOSSES: dict[str, PolicyLoss] = {"ppo_clip": ppo_clip, "gspo": gspo, "cispo": cispo}
"""By the name that `rl.loss` has for them."""


class Critic(NamedTuple):
    """The value head's part of a loss."""

    weight: float
    clip: float


class Policy:
    """A policy loss over generated tokens, plus a KL penalty towards the reference model.

    Batch (all [B, L+1] except `advantages`, [B] or [B, L+1]): `ids`; `mask`, 1 on generated tokens, 0 in the
    whole row of an answer that does not count; `old_logprobs` and `reference_logprobs` of each token, in
    nats. Optional: `importance`, what a token's surrogate is multiplied by, and `rollout_logprobs`, those of
    sampling where `old_logprobs` are others (`llm/rl/correction.py`). Answers of a micro-batch that share
    their prompt are read with it once: with `micro_batch` equal to `group` that is every group.

    `normalise` says what the sum over the whole global batch is divided by. `tokens`: each token counts the
    same in long and short answers (Yu et al. 2025, DAPO). `sequences`: each answer counts the same, by the
    mean of its tokens (GRPO). `constant`: the sum over tokens by answers × `max_tokens` (Liu et al. 2025, Dr.
    GRPO). The metrics are divided in the same way.

    With a `critic` the model has a value head (`llm/model/critic.py`), the batch also `old_values` and
    `returns` [B, L+1], and the loss the critic's weight × `value_clip`.
    """

    def __init__(
        self,
        loss: str = "ppo_clip",
        *,
        clip: float = 0.2,
        clip_high: float | None = None,
        kl: float = 0.0,
        kl_estimator: str = "k3",
        temperature: float = 1.0,
        normalise: Normalise = "tokens",
        max_tokens: int = 1,
        critic: Critic | None = None,
    ) -> None:
        self.surrogate, self.low, self.high = LOSSES[loss], clip, clip if clip_high is None else clip_high
        self.kl, self.estimate = kl, kl_estimators.ESTIMATORS[kl_estimator]
        self.temperature, self.normalise, self.max_tokens = temperature, normalise, max_tokens
        self.critic = critic

    def weight(self, batch: Batch) -> float:
        mask = batch["mask"][:, 1:]
        if self.normalise == "tokens":
            return float(mask.sum())
        answers = float(mask.any(dim=1).sum())
        return answers * self.max_tokens if self.normalise == "constant" else answers

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        import torch

        mask = batch["mask"][:, 1:]
        values = None
        if self.critic:
            logits, values = logits_and_values(model, batch["ids"])
            losses = cross_entropy(logits.float() / self.temperature, batch["ids"][:, 1:])
        else:
            losses = answer_losses(model, batch["ids"], batch["mask"], temperature=self.temperature)
        # Prompts first: exp() of their log-probabilities may be infinite, and inf × 0 is nan.
        logprobs = torch.where(mask != 0, -losses, 0)
        old, reference = (batch[name][:, 1:] * mask for name in ("old_logprobs", "reference_logprobs"))
        advantages = batch["advantages"]
        advantages = advantages[:, None] if advantages.ndim == 1 else advantages[:, 1:]
        surrogate, clipped = self.surrogate(logprobs, old, advantages, mask, self.low, self.high)
        if "importance" in batch:
            surrogate = surrogate * batch["importance"][:, 1:]
        recorded = batch["rollout_logprobs"][:, 1:] * mask if "rollout_logprobs" in batch else old
        apart = (logprobs - recorded).detach().abs()
        penalty = self.estimate(logprobs, reference)
        weights = mask
        if self.normalise == "sequences":
            weights = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
        loss = ((surrogate + self.kl * penalty) * weights).sum()
        told = {
            "kl": (penalty * weights).detach().sum(),
            "rollout_mismatch": (apart * weights).sum(),
            "rollout_mismatch_max": (apart * mask).max(),
            "clipped": (clipped * weights).sum(),
        }
        if self.critic and values is not None:
            before, returns = batch["old_values"][:, 1:], batch["returns"][:, 1:]
            wrong = (value_clip(values, before, returns, self.critic.clip) * weights).sum()
            loss, told["value_loss"] = loss + self.critic.weight * wrong, wrong.detach()
        return loss, told
