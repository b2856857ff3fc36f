"""Training objectives. Each returns a *sum* of losses and the weight it sums over.

The trainer divides by the weight of the whole global batch, over all workers and micro-batches: the loss does
not depend on how the batch is split (a mean of means would).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

Batch = dict[str, "torch.Tensor"]


class Objective(Protocol):
    def weight(self, batch: Batch) -> float:
        """The loss's divisor: the number of unmasked tokens or sequences."""
        ...

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The summed loss of a micro-batch, and other metrics to report, summed over the same weight."""
        ...


class NextToken:
    """Cross-entropy of each next token, over the positions with `mask` 1 (all without a mask).

    Batch: `ids` [B, L+1]; optional `mask` [B, L+1], 1 on tokens to learn; optional `positions` [B, L], which
    separate documents (`token_logits`). Adds `z_loss` × log²Z per position (PaLM, Chowdhery et al. 2022,
    section 5, with 1e-4): keeps the softmax's normaliser Z near 1, and logits from drifting in low precision.
    Logits are computed only where some row has a token to learn: with long prompts and a vocabulary of 49,152
    they would take most of the memory.
    """

    def __init__(self, z_loss: float = 0.0) -> None:
        self.z_loss = z_loss

    def weight(self, batch: Batch) -> float:
        if "mask" in batch:
            return float(batch["mask"][:, 1:].sum())
        return float(batch["ids"][:, 1:].numel())

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        import torch

        targets_BL = batch["ids"][:, 1:]
        mask_BL = batch["mask"][:, 1:] if "mask" in batch else torch.ones_like(targets_BL)
        columns = learnt_columns(mask_BL) if "mask" in batch else None
        if columns is not None:
            targets_BL, mask_BL = targets_BL[:, columns], mask_BL[:, columns]
        logits_BLV = token_logits(model, batch["ids"], positions=batch.get("positions"), columns=columns)
        loss = (cross_entropy(logits_BLV, targets_BL) * mask_BL).sum()
        if not self.z_loss:
            return loss, {}
        penalty = self.z_loss * (logits_BLV.float().logsumexp(dim=-1).square() * mask_BL).sum()
        return loss + penalty, {"z_loss": penalty}


class BradleyTerry:
    """-log sigmoid(r(chosen) - r(rejected)) (Bradley and Terry 1952; Ouyang et al. 2022).

    Batch: `chosen`, `rejected` [B, L] ids and `chosen_mask`, `rejected_mask` [B, L], 1 on tokens.
    The model is a sequence classifier with one label, the reward at the last token.
    """

    def weight(self, batch: Batch) -> float:
        return float(batch["chosen"].shape[0])

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        chosen_B = rewards(model, batch["chosen"], batch["chosen_mask"])
        rejected_B = rewards(model, batch["rejected"], batch["rejected_mask"])
        loss = bradley_terry(chosen_B, rejected_B).sum()
        return loss, {"accuracy": (chosen_B > rejected_B).float().sum()}


class PreferenceOptimisation:
    """DPO: -log sigmoid(β × (policy log-ratio - reference log-ratio of chosen over rejected)).

    Rafailov et al. 2023, equation 7, with log-probabilities summed over each answer's tokens. Batch:
    `chosen`, `rejected` [B, L] ids of one width; `chosen_mask`, `rejected_mask` [B, L], 1 on the answer's
    tokens; `reference_chosen`, `reference_rejected` [B], log-probabilities (nats) of the answers under the
    initial model.
    """

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def weight(self, batch: Batch) -> float:
        return float(batch["chosen"].shape[0])

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        chosen_B, rejected_B = answer_logprobs(model, batch).chunk(2)
        gained_B = self.beta * (chosen_B - batch["reference_chosen"])
        lost_B = self.beta * (rejected_B - batch["reference_rejected"])
        margin_B = (gained_B - lost_B).detach()
        return bradley_terry(gained_B, lost_B).sum(), {
            "accuracy": (margin_B > 0).float().sum(),
            "margin": margin_B.sum(),
            "chosen_reward": gained_B.detach().sum(),
        }


def answer_logprobs(model: Any, batch: Batch) -> torch.Tensor:
    """Summed log-probability (nats) of the chosen answers, then of the rejected ones: [2B], fp32."""
    import torch

    ids = torch.cat([batch["chosen"], batch["rejected"]])
    mask = torch.cat([batch["chosen_mask"], batch["rejected_mask"]])
    return -(token_losses(model, ids) * mask[:, 1:]).sum(dim=1)


def token_losses(
    model: Any, ids: torch.Tensor, *, temperature: float = 1.0, positions: torch.Tensor | None = None
) -> torch.Tensor:
    """Negative log-likelihood (nats) of each token after the first: ids [B, L+1] → [B, L], fp32.

    `positions` as in `token_logits`.
    """
    logits_BLV = token_logits(model, ids, positions=positions)
    if temperature != 1.0:
        logits_BLV = logits_BLV.float() / temperature
    return cross_entropy(logits_BLV, ids[:, 1:])


def learnt_columns(mask_BL: torch.Tensor) -> torch.Tensor | None:
    """Indices of the columns in which any row is 1; None if these are most of them."""
    columns = mask_BL.any(0).nonzero()[:, 0]
    return columns if 0 < len(columns) < 0.75 * mask_BL.shape[1] else None


def token_logits(
    model: Any,
    ids: torch.Tensor,
    *,
    positions: torch.Tensor | None = None,
    columns: torch.Tensor | None = None,
) -> torch.Tensor:
    """Logits for each token after the first: ids [B, L+1] → [B, L, V], in the model's precision.

    With `columns` [C], only of these tokens: [B, C, V]; 0 is the token after the first.

    `positions` [B, L] count within documents. transformers restarts the rotary positions with them, and
    blocks attention where they do not rise by one (with no attention mask and no cache).
    """
    kept = {} if columns is None else {"logits_to_keep": columns}
    logits: torch.Tensor = model(
        input_ids=ids[:, :-1], position_ids=positions, use_cache=False, **kept
    ).logits
    return logits


def cross_entropy(logits_BLV: torch.Tensor, targets_BL: torch.Tensor) -> torch.Tensor:
    """Loss (nats) of each target: logits [B, L, V], ids [B, L] → [B, L], fp32."""
    from headwater.llm.model import cpu_kernels

    return cpu_kernels.cross_entropy(logits_BLV.flatten(0, 1), targets_BL.flatten()).view(targets_BL.shape)


def rewards(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The scalar reward of each sequence: ids, mask [B, L] → [B], fp32."""
    return model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].float()


def bradley_terry(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(chosen - rejected) of each pair, [B] → [B]."""
    import torch.nn.functional as functional

    return -functional.logsigmoid(chosen - rejected)
