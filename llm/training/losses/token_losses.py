"""Logits of a language model and the losses of tokens, which objectives are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


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
