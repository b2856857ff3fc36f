"""CPU kernels for training: attention, cross-entropy and RMSNorm with fewer passes over memory than torch's.

On one core torch's fused attention reaches a third of the speed of a matrix product, its loss over a
vocabulary makes seven passes over fp32 logits, and its norm keeps three copies of its input. The kernels
here, with their gradients, work in blocks that fit in the cache. GPUs keep torch's own kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from headwater.llm.model.coverage import KERNELS

ATTENTION = "headwater_causal_blocks"
LONGEST = 2048
"""Longest sequence in tokens: probabilities are kept for the backward pass. Beyond it torch's kernel runs."""
QUERIES = 64
"""Queries per block. Each block reads keys only up to its own end, which skips most masked products."""
LOGIT_BLOCK = 1 << 20
"""Logits processed at a time (4 MB in fp32)."""
NORM_BLOCK = 1 << 17
"""Numbers normalised at a time (0.5 MB in fp32)."""


def _blocks(rows: int, width: int, numbers: int, buffers: int = 1) -> Iterator[tuple[Any, ...]]:
    """Slices of rows with about `numbers` elements each, plus fp32 buffers that every slice reuses."""
    size = min(rows, max(1, numbers // width))
    memory = torch.empty(buffers, size, width, dtype=torch.float32)
    for start in range(0, rows, size):
        end = min(rows, start + size)
        yield slice(start, end), *memory[:, : end - start]


class _Attention(torch.autograd.Function):
    """softmax(QKᵀ · scale + causal mask) V with grouped keys; q [B, H, L, D], k, v [B, K, L, D]."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        B, H, L, D = q.shape
        K = k.shape[1]
        k, v = k.reshape(B * K, L, D), v.reshape(B * K, L, D)
        out = torch.empty(B, K, H // K, L, D, dtype=q.dtype)
        masked = torch.full((QUERIES, QUERIES), float("-inf"), dtype=q.dtype).triu_(1)
        queries, kept = [], []
        for start in range(0, L, QUERIES):
            end = min(L, start + QUERIES)
            block = (q[:, :, start:end] * scale).reshape(B * K, -1, D)  # heads that share keys, stacked
            scores = torch.bmm(block, k[:, :end].transpose(1, 2)).view(B * H, end - start, end)
            scores[:, :, start:].add_(masked[: end - start, : end - start])
            p = torch.softmax(scores, -1).view(B * K, -1, end)
            out[:, :, :, start:end] = torch.bmm(p, v[:, :end]).view(B, K, -1, end - start, D)
            queries.append(block)
            kept.append(p)
        ctx.shape, ctx.scale = (B, H, K, L, D), scale
        ctx.save_for_backward(k, v, *queries, *kept)
        return out.view(B, H, L, D)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        B, H, K, L, D = ctx.shape
        k, v, *blocks = ctx.saved_tensors
        queries, kept = blocks[: len(blocks) // 2], blocks[len(blocks) // 2 :]
        d_q = torch.empty(B, H, L, D, dtype=k.dtype)
        d_k, d_v = torch.zeros_like(k), torch.zeros_like(v)
        for number, start in enumerate(range(0, L, QUERIES)):
            end = min(L, start + QUERIES)
            block, p = queries[number], kept[number]
            d_block = d_out[:, :, start:end].reshape(B * K, -1, D)
            d_v[:, :end].baddbmm_(p.transpose(1, 2), d_block)
            d_p = torch.bmm(d_block, v[:, :end].transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_p, p, -1, p.dtype)
            d_q[:, :, start:end] = torch.bmm(d_scores, k[:, :end]).mul_(ctx.scale).view(B, H, -1, D)
            d_k[:, :end].baddbmm_(d_scores.transpose(1, 2), block)
        return d_q, d_k.view(B, K, L, D), d_v.view(B, K, L, D), None


@dataclass(frozen=True)
class Group:
    """A prompt, and the answers to it that follow one after another, in a packed row."""

    first: int
    """Position of the prompt's first token in the row."""
    prompt: int
    """Tokens of the prompt."""
    answers: tuple[int, ...]
    """Tokens of each answer."""

    @property
    def end(self) -> int:
        return self.first + self.prompt + sum(self.answers)


def shared_prompt_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, groups: Sequence[Group]
) -> torch.Tensor:
    """Attention in a row of groups: a token sees its prompt and its own answer up to itself.

    q [1, H, S, D], k, v [1, K, S, D] → [1, S, H, D].
    """
    found = []
    for group in groups:
        middle = group.first + group.prompt
        prompt, rest = slice(group.first, middle), slice(middle, group.end)
        own = (part[:, :, prompt] for part in (q, k, v))
        found.append(_Attention.apply(*own, scale)[0].transpose(0, 1))
        if middle < group.end:
            q_TH, k_TK, v_TK = (part[0, :, rest].transpose(0, 1) for part in (q, k, v))
            found.append(_answers(q_TH, k_TK, v_TK, k[0, :, prompt], v[0, :, prompt], scale, group.answers))
    return torch.cat(found)[None]


def _answers(
    q_NHD: torch.Tensor,
    k_NKD: torch.Tensor,
    v_NKD: torch.Tensor,
    prompt_k_KPD: torch.Tensor,
    prompt_v_KPD: torch.Tensor,
    scale: float,
    lengths: Sequence[int],
) -> torch.Tensor:
    """Attention of answers, N tokens together, to their prompt and themselves: [N, H, D]."""
    B, T, (K, P, D), G = len(lengths), max(lengths), prompt_k_KPD.shape, q_NHD.shape[1] // k_NKD.shape[1]
    there_BT = torch.arange(T) < torch.tensor(lengths)[:, None]
    places_BT = (
        torch.cumsum(there_BT.flatten(), 0).sub_(1).clamp_(min=0).view(B, T)
    )  # padding repeats a token
    q = (q_NHD * scale)[places_BT].view(B, T, K, G, D).permute(0, 2, 3, 1, 4).reshape(B, K, G * T, D)
    k, v = (part_NKD[places_BT].transpose(1, 2) for part_NKD in (k_NKD, v_NKD))
    k = torch.cat([prompt_k_KPD.expand(B, K, P, D), k], dim=2)
    v = torch.cat([prompt_v_KPD.expand(B, K, P, D), v], dim=2)
    hidden = torch.full((T, P + T), float("-inf"), dtype=q.dtype).triu_(P + 1)
    scores = (q @ k.mT).view(B, K, G, T, P + T) + hidden
    mixed = (scores.softmax(-1).view(B, K, G * T, P + T) @ v).view(B, K, G, T, D)
    return mixed.permute(0, 3, 1, 2, 4).reshape(B * T, K * G, D)[there_BT.flatten()]


def causal_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    groups: Sequence[Group] | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention with the signature of transformers' attention functions; returns [B, L, H, D].

    Only plain causal attention over whole sequences runs here, or, with `groups`, over a row of groups;
    everything else uses torch's kernel.
    """
    if groups is not None:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return shared_prompt_attention(query, key, value, scale, groups), None
    whole = query.shape[2] == key.shape[2] and 1 < query.shape[2] <= LONGEST
    if attention_mask is not None or not whole or query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _Attention.apply(query, key, value, scale).transpose(1, 2).contiguous(), None


class _RMSNorm(torch.autograd.Function):
    """x / sqrt(mean(x²) + eps) · gain over the last axis, in fp32 and rounded once; x [N, W], gain [W]."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
        N, W = x.shape
        in_fp32 = gain.float()
        out, scale = torch.empty_like(x), in_fp32.new_empty(N, 1)
        for rows, buffer in _blocks(N, W, NORM_BLOCK):
            block, r = buffer.copy_(x[rows]), scale[rows]
            torch.linalg.vector_norm(block, dim=-1, keepdim=True, out=r).square_().div_(W).add_(eps).rsqrt_()
            out[rows] = block.mul_(r).mul_(in_fp32)
        ctx.save_for_backward(x, gain, scale)
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, gain, scale = ctx.saved_tensors
        N, W = x.shape
        in_fp32 = gain.float()
        d_x, d_gain = torch.empty_like(x), torch.zeros_like(in_fp32)
        for rows, normed, d, product in _blocks(N, W, NORM_BLOCK, buffers=3):
            r = scale[rows]
            normed.copy_(x[rows]).mul_(r)
            d.copy_(d_out[rows])
            torch.mul(d, normed, out=product)
            d_gain += product.sum(0)
            along = torch.mv(product, in_fp32).div_(W)[:, None]
            d_x[rows] = d.mul_(in_fp32).sub_(normed.mul_(along)).mul_(r)  # normed is scale-invariant in x
        return d_x, d_gain.to(gain.dtype), None


NORMS = (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm)
"""Norms of one definition under several names."""


class BlockNorm(Qwen3RMSNorm):
    """Replaces a transformers RMSNorm in place; its parameters are unchanged."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if hidden_states.device.type != "cpu":
            return super().forward(hidden_states)
        flat = hidden_states.reshape(-1, hidden_states.shape[-1])
        return _RMSNorm.apply(flat, self.weight, self.variance_epsilon).view(hidden_states.shape)


def use_kernels(model: Any) -> None:
    """Make a transformers model on the CPU use these kernels, for as long as it is in memory.

    Models of other types (`coverage.KERNELS`), whose attention may be capped or biased, stay as they are.
    """
    if model.config.model_type not in KERNELS:
        return
    AttentionInterface.register(ATTENTION, causal_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)  # no mask for plain causal attention
    model.set_attn_implementation(ATTENTION)
    for module in model.modules():
        if type(module) in NORMS:
            module.__class__ = BlockNorm


class _CrossEntropy(torch.autograd.Function):
    """-log softmax(logits)[target] of each row, in fp32; logits [N, V] in any precision."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        N, V = logits.shape
        probabilities, losses = torch.empty_like(logits), logits.new_empty(N, dtype=torch.float32)
        for rows, block in _blocks(N, V, LOGIT_BLOCK):
            block.copy_(logits[rows])
            block.sub_(block.amax(-1, keepdim=True))
            of_targets = block.gather(1, targets[rows, None])
            total = block.exp_().sum(-1, keepdim=True)
            losses[rows] = (total.log() - of_targets)[:, 0]
            probabilities[rows] = block.div_(total)
        ctx.save_for_backward(probabilities, targets, losses)
        return losses

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_losses: torch.Tensor) -> tuple[torch.Tensor, None]:
        probabilities, targets, losses = ctx.saved_tensors
        d_losses = d_losses.to(probabilities.dtype)  # same rounding for targets and others
        # The target's gradient is p - 1 with p = exp(-loss): a rounded p would make it 0 when p is almost 1.
        of_targets = torch.expm1(-losses) * d_losses
        d_logits = probabilities * d_losses[:, None]
        d_logits[torch.arange(len(targets)), targets] = of_targets.to(d_logits.dtype)
        return d_logits, None


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood (nats, fp32) of each target: logits [N, V], targets [N] → [N]."""
    if logits.device.type != "cpu":
        return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return _CrossEntropy.apply(logits, targets)
