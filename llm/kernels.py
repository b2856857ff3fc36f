"""The same arithmetic in fewer passes over memory: what torch's CPU kernels do slowly in a training step.

On one core torch's fused attention reaches a third of the speed of a matrix product, and the loss over a
vocabulary makes seven passes over fp32 logits. Both are written here in blocks that stay in the cache, with
their gradients. GPUs keep torch's own kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

ATTENTION = "headwater_causal_blocks"
LONGEST = 2048
"""Probabilities are kept for the backward pass: longer sequences go through torch's kernel."""
QUERIES = 64
"""Queries of a block. Each sees the keys up to its block's end: most of what is masked is not computed."""
LOGIT_BLOCK = 1 << 20
"""Logits that are looked at at a time (4 MB in fp32)."""


class _Attention(torch.autograd.Function):
    """softmax(QKᵀ · scale + causal mask) V with grouped keys; q [B, H, L, D], k, v [B, K, L, D]."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        B, H, L, D = q.shape
        K = k.shape[1]
        k, v = k.reshape(B * K, L, D), v.reshape(B * K, L, D)
        out = torch.empty(B, K, H // K, L, D, dtype=q.dtype)
        queries, kept = [], []
        for start in range(0, L, QUERIES):
            end = min(L, start + QUERIES)
            block = (q[:, :, start:end] * scale).reshape(B * K, -1, D)  # heads that share keys end to end
            scores = torch.bmm(block, k[:, :end].transpose(1, 2)).view(B * H, end - start, end)
            scores[:, :, start:].masked_fill_(_above_diagonal(end - start), float("-inf"))
            p = torch.softmax(scores, -1).view(B * K, -1, end)
            out[:, :, :, start:end] = torch.bmm(p, v[:, :end]).view(B, K, -1, end - start, D)
            queries.append(block)
            kept.append(p)
        out = out.view(B, H, L, D)
        ctx.shape, ctx.scale = (B, H, K, L, D), scale
        ctx.save_for_backward(k, v, out, *queries, *kept)
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        B, H, K, L, D = ctx.shape
        k, v, out, *blocks = ctx.saved_tensors
        queries, kept = blocks[: len(blocks) // 2], blocks[len(blocks) // 2 :]
        d_q = torch.empty(B, H, L, D, dtype=k.dtype)
        d_k, d_v = torch.zeros_like(k), torch.zeros_like(v)
        for number, start in enumerate(range(0, L, QUERIES)):
            end = min(L, start + QUERIES)
            block, p = queries[number], kept[number]
            d_block = d_out[:, :, start:end].reshape(B * K, -1, D)
            dot = (d_block * out[:, :, start:end].reshape(B * K, -1, D)).sum(-1, keepdim=True)
            d_v[:, :end].baddbmm_(p.transpose(1, 2), d_block)
            d_scores = torch.bmm(d_block, v[:, :end].transpose(1, 2)).sub_(dot).mul_(p)
            d_q[:, :, start:end] = torch.bmm(d_scores, k[:, :end]).mul_(ctx.scale).view(B, H, -1, D)
            d_k[:, :end].baddbmm_(d_scores.transpose(1, 2), block)
        return d_q, d_k.view(B, K, L, D), d_v.view(B, K, L, D), None


def _above_diagonal(size: int) -> torch.Tensor:
    return torch.ones(size, size, dtype=torch.bool).triu_(1)


def causal_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers' attention functions: heads first in, [B, L, H, D] out.

    Only plain causal attention of whole sequences is computed here; the rest goes to torch's kernel.
    """
    whole = query.shape[2] == key.shape[2] and 1 < query.shape[2] <= LONGEST
    if attention_mask is not None or not whole or query.device.type != "cpu":
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _Attention.apply(query, key, value, scale).transpose(1, 2).contiguous(), None


def use_kernels(model: Any) -> None:
    """Have a transformers model on the CPU compute its attention here, for as long as it is in memory."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, causal_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)  # none where attention is plainly causal
    model.set_attn_implementation(ATTENTION)


class _CrossEntropy(torch.autograd.Function):
    """-log softmax(logits)[target] of each row, in fp32; logits [N, V] in any precision."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        size = max(1, LOGIT_BLOCK // logits.shape[1])
        lse = torch.cat([torch.logsumexp(block.float(), -1) for block in logits.split(size)])
        ctx.save_for_backward(logits, targets, lse)
        return lse - logits.gather(1, targets[:, None])[:, 0].float()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_losses: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, targets, lse = ctx.saved_tensors
        size = max(1, LOGIT_BLOCK // logits.shape[1])
        d_logits = torch.empty_like(logits)
        for start in range(0, len(logits), size):
            rows = slice(start, start + size)
            d_block = logits[rows].float().sub_(lse[rows, None]).exp_()
            d_block.scatter_add_(1, targets[rows, None], d_block.new_full((len(d_block), 1), -1.0))
            d_logits[rows] = d_block.mul_(d_losses[rows, None])
        return d_logits, None


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood (nats, fp32) of each target: logits [N, V], targets [N] → [N]."""
    if logits.device.type != "cpu":
        return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return _CrossEntropy.apply(logits, targets)
