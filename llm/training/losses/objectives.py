"""Training objectives. Each returns a *sum* of losses and the weight it sums over.

The trainer divides by the weight of the whole global batch, over all workers and micro-batches: the loss does
not depend on how the batch is split (a mean of means would).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from headwater.llm.training.losses import preference_losses
from headwater.llm.training.losses.shared_prompts import answer_losses, pair_rewards, rewards
from headwater.llm.training.losses.token_losses import cross_entropy, token_logits

if TYPE_CHECKING:
    import torch

Batch = dict[str, "torch.Tensor"]


class Objective(Protocol):
    def weight(self, batch: Batch) -> float:
        """The loss's divisor: the number of unmasked tokens or sequences."""
        ...

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The summed loss of a micro-batch, and other metrics to report, summed over the same weight.

        Of a metric whose name ends with `_max` the largest of all micro-batches is reported instead.
        """
        ...


class NextToken:
    """Cross-entropy of each next token, over the positions with `mask` 1 (all without a mask).

    Batch: `ids` [B, L+1]; optional `mask` [B, L+1], 1 on tokens to learn; optional `positions` [B, L], which
    separate documents (`token_logits`). Adds `z_loss` × log²Z per position (PaLM, Chowdhery et al. 2022,
    section 5, with 1e-4): keeps the softmax's normaliser Z near 1, and logits from drifting in low precision.
    With `sparse`, logits are computed only where some row has a token to learn: with long prompts and a
    vocabulary of 49,152 they would take most of the memory.
    """

    def __init__(self, z_loss: float = 0.0, *, sparse: bool = False) -> None:
        self.z_loss, self.sparse = z_loss, sparse

    def weight(self, batch: Batch) -> float:
        if "mask" in batch:
            return float(batch["mask"][:, 1:].sum())
        return float(batch["ids"][:, 1:].numel())

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        targets_BL, columns = batch["ids"][:, 1:], None
        mask_BL: Any = 1
        if "mask" in batch:
            mask_BL = batch["mask"][:, 1:]
            columns = learnt_columns(mask_BL) if self.sparse else None
        if columns is not None:
            targets_BL, mask_BL = targets_BL[:, columns], mask_BL[:, columns]
        logits_BLV = token_logits(model, batch["ids"], positions=batch.get("positions"), columns=columns)
        loss = (cross_entropy(logits_BLV, targets_BL) * mask_BL).sum()
        if not self.z_loss:
            return loss, {}
        penalty = self.z_loss * (logits_BLV.float().logsumexp(dim=-1).square() * mask_BL).sum()
        return loss + penalty, {"z_loss": penalty}


class BradleyTerry:
    """`preference_losses.bradley_terry` of a reward model's scores (Ouyang et al. 2022).

    Batch: `chosen`, `rejected` [B, L] ids and `chosen_mask`, `rejected_mask` [B, L], 1 on tokens.
    The model is a sequence classifier with one label, the reward at the last token.
    """

    def __init__(self, margin: float = 0.0, centring: float = 0.0) -> None:
        self.margin, self.centring = margin, centring

    def weight(self, batch: Batch) -> float:
        return float(batch["chosen"].shape[0])

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        chosen_B, rejected_B = pair_rewards(model, batch)
        losses_B = preference_losses.bradley_terry(
            chosen_B, rejected_B, margin=self.margin, centring=self.centring
        )
        return losses_B.sum(), {
            "accuracy": (chosen_B > rejected_B).float().sum(),
            "margin": (chosen_B - rejected_B).detach().sum(),
        }


PairLoss = Literal["dpo", "ipo", "kto", "simpo", "orpo"]
REFERENCE_FREE: frozenset[PairLoss] = frozenset({"simpo", "orpo"})
"""Losses of mean log-probabilities under the model in training alone."""


class PreferenceOptimisation:
    """A loss of `preference_losses` on the log-probabilities of pairs of answers.

    Batch: `chosen`, `rejected` [B, L] ids of one width; `chosen_mask`, `rejected_mask` [B, L], 1 on the
    answer's tokens. Unless the loss is reference-free: `reference_chosen`, `reference_rejected` [B], summed
    log-probabilities (nats) of the answers under the initial model. For `kto` also `kl` [B], one value for
    the global batch.

    `chosen_weight` times the chosen answer's mean negative log-likelihood (nats per token) is added to the
    loss of a pair (Pang et al. 2024, "Iterative Reasoning Preference Optimization", equation 1: α).

    Metrics: the reward of an answer is β × its log-ratio, or β × its mean log-probability where there is no
    reference. `margin` is the chosen answer's less the rejected one's, and `accuracy` counts those above 0.
    """

    def __init__(
        self,
        beta: float,
        loss: PairLoss = "dpo",
        *,
        gamma: float = 0.0,
        label_smoothing: float = 0.0,
        chosen_weight: float = 0.0,
    ) -> None:
        self.loss, self.beta, self.gamma, self.label_smoothing = loss, beta, gamma, label_smoothing
        self.chosen_weight = chosen_weight

    def weight(self, batch: Batch) -> float:
        return float(batch["chosen"].shape[0])

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        chosen_B, rejected_B = answer_logprobs(model, batch, mean=self.loss in REFERENCE_FREE).chunk(2)
        losses_B = self._losses(chosen_B, rejected_B, batch)
        if self.chosen_weight:
            lengths_B = 1 if self.loss in REFERENCE_FREE else batch["chosen_mask"][:, 1:].sum(dim=1)
            losses_B = losses_B - self.chosen_weight * chosen_B / lengths_B
        gained_B, lost_B = chosen_B.detach(), rejected_B.detach()
        if self.loss not in REFERENCE_FREE:
            gained_B = gained_B - batch["reference_chosen"]
            lost_B = lost_B - batch["reference_rejected"]
        margin_B = self.beta * (gained_B - lost_B)
        return losses_B.sum(), {
            "accuracy": (margin_B > 0).float().sum(),
            "margin": margin_B.sum(),
            "chosen_reward": self.beta * gained_B.sum(),
        }

    def _losses(self, chosen_B: torch.Tensor, rejected_B: torch.Tensor, batch: Batch) -> torch.Tensor:
        import torch

        beta, losses = self.beta, preference_losses
        if self.loss == "simpo":
            return losses.simpo(chosen_B, rejected_B, beta=beta, gamma=self.gamma)
        if self.loss == "orpo":
            return losses.orpo(chosen_B, rejected_B, beta=beta)
        references = batch["reference_chosen"], batch["reference_rejected"]
        if self.loss == "ipo":
            return losses.ipo(chosen_B, rejected_B, *references, beta=beta)
        if self.loss == "kto":
            better = torch.ones_like(chosen_B, dtype=torch.bool)
            good = losses.kto(chosen_B, references[0], better, batch["kl"], beta=beta)
            return (good + losses.kto(rejected_B, references[1], ~better, batch["kl"], beta=beta)) / 2
        return losses.dpo(chosen_B, rejected_B, *references, beta=beta, label_smoothing=self.label_smoothing)


def answer_logprobs(model: Any, batch: Batch, *, mean: bool = False) -> torch.Tensor:
    """Log-probability (nats) of the chosen answers, then of the rejected ones: [2B], fp32.

    Summed over an answer's tokens; with `mean` divided by their number.
    """
    import torch

    ids = torch.cat([batch["chosen"], batch["rejected"]])
    mask = torch.cat([batch["chosen_mask"], batch["rejected_mask"]])
    return masked_logprobs(model, ids, mask, mean=mean)


def masked_logprobs(model: Any, ids: torch.Tensor, mask: torch.Tensor, *, mean: bool = False) -> torch.Tensor:
    """Log-probability (nats) of each row's tokens with `mask` 1, summed or averaged: [B, L] → [B], fp32.

    A prompt that several rows have in common is read once (`answer_losses`).
    """
    sums_B = -(answer_losses(model, ids, mask) * mask[:, 1:]).sum(dim=1)
    return sums_B / mask[:, 1:].sum(dim=1) if mean else sums_B


def learnt_columns(mask_BL: torch.Tensor) -> torch.Tensor | None:
    """Indices of the columns in which any row is 1; None if these are most of them."""
    columns = mask_BL.any(0).nonzero()[:, 0]
    return columns if 0 < len(columns) < 0.75 * mask_BL.shape[1] else None


def sequence_rewards(model: Any, sequences: Sequence[Sequence[int]], batch: int = 16) -> list[float]:
    """The rewards of token ids of different lengths, read in batches without gradients."""
    import torch

    from headwater.llm.examples.encoded import pad

    device, pad_id = next(model.parameters()).device, int(model.config.pad_token_id)
    found: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(sequences), batch):
            part = [np.asarray(sequence) for sequence in sequences[start : start + batch]]
            ids, mask = pad(part, pad_id), pad([np.ones_like(each) for each in part], 0)
            scores = rewards(model, torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device))
            found += scores.tolist()
    return found
