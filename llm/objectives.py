"""What each kind of training minimises. An objective returns a *sum* and the weight it sums over.

The trainer divides by the weight of the whole global batch, over all workers and micro-batches,
so that the loss does not change with how a batch is cut up (a mean of means would).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

Batch = dict[str, "torch.Tensor"]


class Objective(Protocol):
    def weight(self, batch: Batch) -> float:
        """What the loss is divided by: tokens or sequences with a say in it."""
        ...

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The summed loss of a micro-batch, and further sums (of the same weight) to report."""
        ...


class NextToken:
    """Cross-entropy of each next token, over the positions that `mask` marks (all, if there is none).

    Batch: `ids` [B, L+1]; optional `mask` [B, L+1], 1 where the token is to be learnt; optional
    `positions` [B, L], which keep documents apart (`token_losses`).
    """

    def weight(self, batch: Batch) -> float:
        if "mask" in batch:
            return float(batch["mask"][:, 1:].sum())
        return float(batch["ids"][:, 1:].numel())

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        losses_BL = token_losses(model, batch["ids"], positions=batch.get("positions"))
        if "mask" in batch:
            losses_BL = losses_BL * batch["mask"][:, 1:]
        return losses_BL.sum(), {}


class BradleyTerry:
    """-log sigmoid(r(chosen) - r(rejected)) (Bradley and Terry 1952; Ouyang et al. 2022).

    Batch: `chosen`, `rejected` [B, L] ids and `chosen_mask`, `rejected_mask` [B, L], 1 on tokens.
    The model is a sequence classifier with one label: the reward of the last token.
    """

    def weight(self, batch: Batch) -> float:
        return float(batch["chosen"].shape[0])

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        chosen_B = rewards(model, batch["chosen"], batch["chosen_mask"])
        rejected_B = rewards(model, batch["rejected"], batch["rejected_mask"])
        loss = bradley_terry(chosen_B, rejected_B).sum()
        return loss, {"accuracy": (chosen_B > rejected_B).float().sum()}


def token_losses(
    model: Any, ids: torch.Tensor, *, temperature: float = 1.0, positions: torch.Tensor | None = None
) -> torch.Tensor:
    """Negative log-likelihood (nats) of each token after the first: ids [B, L+1] → [B, L], fp32.

    `positions` [B, L] are places within documents: transformers restarts the rotary positions with them, and
    where they do not rise by one it lets no attention through (with no attention mask and no cache).
    """
    from llm.kernels import cross_entropy

    logits_BLV = model(input_ids=ids[:, :-1], position_ids=positions, use_cache=False).logits
    if temperature != 1.0:
        logits_BLV = logits_BLV.float() / temperature
    return cross_entropy(logits_BLV.flatten(0, 1), ids[:, 1:].flatten()).view(ids.shape[0], -1)


def rewards(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The scalar reward of each sequence: ids, mask [B, L] → [B], fp32."""
    return model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].float()


def bradley_terry(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """Loss of each pair."""
    import torch.nn.functional as functional

    return -functional.logsigmoid(chosen - rejected)
