"""Losses and rewards of several answers to one prompt, which the model reads once.

The prompt and all answers are one sequence: every answer continues the prompt's positions and attends to the
prompt and itself. A group of 8 answers of 40 tokens to a prompt of 300 has 620 tokens in the place of 2,720.
With the CPU kernels, many groups are one row without padding; otherwise rows share a prompt only if all do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from headwater.llm.training.losses.token_losses import token_losses

if TYPE_CHECKING:
    import torch


def answer_losses(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, *, temperature: float = 1.0
) -> torch.Tensor:
    """Negative log-likelihood (nats) of each token after the first: ids [B, L+1] → [B, L], fp32.

    `mask` [B, L+1] is 1 on the answers' tokens; elsewhere the result is unspecified. Equals `token_losses`
    there, and is it where the rows share less than they differ in: rows of many prompts share a template's
    first tokens, and one row of all their rests would attend to rows² × length² positions.
    """
    import torch

    from headwater.llm.model import cpu_kernels

    if getattr(model, "module", model).config._attn_implementation == cpu_kernels.ATTENTION:
        by_prompt = groups(ids, mask)
        if 0 < 2 * len(by_prompt) <= sum(map(len, by_prompt.values())):
            return _packed_losses(model, ids, by_prompt, temperature)
    shared = _shared(ids, mask)
    if ids.shape[0] == 1 or shared < max(2, ids.shape[1] - shared):
        return token_losses(model, ids, temperature=temperature)
    tails_BT = ids[:, shared:]
    B, T = tails_BT.shape
    row = torch.cat([ids[0, :shared], tails_BT[:, :-1].flatten()])
    logits_KV = model(
        input_ids=row[None],
        position_ids=_positions(shared, B, T - 1, ids.device)[None],
        attention_mask=_attention(shared, B, T - 1, ids.device, next(model.parameters()).dtype),
        use_cache=False,
        logits_to_keep=1 + B * (T - 1),  # of the prompt only the last token's
    ).logits[0]
    rest_BT = 1 + torch.arange(B * (T - 1), device=ids.device).view(B, T - 1)
    before_BT = torch.cat([rest_BT.new_zeros(B, 1), rest_BT], dim=1)
    logits_NV = logits_KV[before_BT.flatten()]
    if temperature != 1.0:
        logits_NV = logits_NV.float() / temperature
    losses_BT = cpu_kernels.cross_entropy(logits_NV, tails_BT.flatten()).view(B, T)
    return torch.cat([losses_BT.new_zeros(B, shared - 1), losses_BT], dim=1)


Groups = dict[tuple[int, ...], list[tuple[int, int]]]
"""By prompt: each answer's row, and the end of its last token."""


def groups(ids: Any, mask: Any) -> Groups:
    """Rows [B, L+1] with an answer, by what comes before it. Empty if one has no prompt."""
    found: Groups = {}
    for row, (known, counts) in enumerate(zip(ids.tolist(), (mask != 0).tolist(), strict=True)):
        if True in counts:
            prompt = tuple(known[: counts.index(True)])
            found.setdefault(prompt, []).append((row, _end(counts)))
    return found if () not in found else {}


def _packed_losses(model: Any, ids: torch.Tensor, by_prompt: Groups, temperature: float) -> torch.Tensor:
    """`answer_losses` of groups in one row without padding; rows that are in no group have 0."""
    import torch

    from headwater.llm.model import cpu_kernels

    parts, row, positions, kept, rows, columns = [], [], [], [], [], []  # type: ignore[var-annotated]
    for prompt, answers in by_prompt.items():
        first, length = len(row), len(prompt)
        lengths = tuple(end - 1 - length for _, end in answers)  # nothing follows the last token
        parts.append(cpu_kernels.Group(first, length, lengths))
        row += prompt
        positions += range(length)
        for number, end in answers:
            kept += [first + length - 1, *range(len(row), len(row) + end - 1 - length)]
            rows += [number] * (end - length)
            columns += range(length, end)
            row += ids[number, length : end - 1].tolist()
            positions += range(length, end - 1)
    logits_NV = _read(model, row, positions, parts, logits_to_keep=torch.tensor(kept)).logits[0]
    if temperature != 1.0:
        logits_NV = logits_NV.float() / temperature
    losses_N = cpu_kernels.cross_entropy(logits_NV, ids[rows, columns])
    losses_BL = losses_N.new_zeros(ids.shape)
    losses_BL[rows, columns] = losses_N
    return losses_BL[:, 1:]


def pair_rewards(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards of `chosen` and `rejected` [B, L] with their masks, 1 on tokens: two of [B], fp32.

    Those of `rewards`. With the CPU kernels all pairs are one row without padding, in which what the two
    answers of a pair have in common is read once.
    """
    from headwater.llm.model import cpu_kernels

    if getattr(model, "module", model).config._attn_implementation != cpu_kernels.ATTENTION:
        return (
            rewards(model, batch["chosen"], batch["chosen_mask"]),
            rewards(model, batch["rejected"], batch["rejected_mask"]),
        )
    parts, row, positions, ends = [], [], [], []  # type: ignore[var-annotated]
    for pair in zip(*(sequences(batch, side) for side in ("chosen", "rejected")), strict=True):
        shared = min(common(*pair), *(len(each) - 1 for each in pair))
        parts.append(cpu_kernels.Group(len(row), shared, tuple(len(each) - shared for each in pair)))
        row += pair[0][:shared]
        positions += range(shared)
        for each in pair:
            row += each[shared:]
            positions += range(shared, len(each))
            ends.append(len(row) - 1)
    states_SE = _read(model, row, positions, parts, output_hidden_states=True).hidden_states[-1][0]
    scores = getattr(model, "module", model).score(states_SE[ends])[:, 0].float()
    return scores[0::2], scores[1::2]


def rewards(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The scalar reward of each sequence: ids, mask [B, L] → [B], fp32."""
    return model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].float()


def _read(model: Any, row: list[int], positions: list[int], parts: list[Any], **wanted: Any) -> Any:
    """The model's output for one row of groups, with the CPU kernels."""
    import torch

    return model(
        input_ids=torch.tensor([row]),
        position_ids=torch.tensor([positions]),
        attention_mask=torch.zeros(1, 1, 1, 1),  # made already, for transformers: `groups` says what is seen
        use_cache=False,
        groups=tuple(parts),
        **wanted,
    )


def sequences(batch: Mapping[str, Any], side: str) -> list[list[int]]:
    """The tokens of each row up to the last one whose mask is not 0, of tensors or arrays [B, L]."""
    rows = zip(batch[side].tolist(), (batch[f"{side}_mask"] != 0).tolist(), strict=True)
    return [ids[: _end(counts)] for ids, counts in rows]


def common(one: list[int], other: list[int]) -> int:
    """Number of first tokens that two sequences have in common."""
    differs = [a != b for a, b in zip(one, other, strict=False)]
    return differs.index(True) if True in differs else len(differs)


def _end(counts: list[bool]) -> int:
    return len(counts) - counts[::-1].index(True) if True in counts else 0


def _shared(ids: torch.Tensor, mask: torch.Tensor) -> int:
    """Number of first columns that are the same prompt in every row."""
    differs = ((ids != ids[:1]) | (mask != 0)).any(0)
    return int(differs.int().argmax()) if bool(differs.any()) else ids.shape[1] - 1


def _positions(shared: int, answers: int, length: int, device: torch.device) -> torch.Tensor:
    import torch

    own = torch.arange(shared, shared + length, device=device).repeat(answers)
    return torch.cat([torch.arange(shared, device=device), own])


def _attention(
    shared: int, answers: int, length: int, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """[1, 1, S, S] added to the scores: 0 where a token may attend, else the lowest number."""
    import torch

    size = shared + answers * length
    group = torch.cat([torch.zeros(shared), torch.arange(1, answers + 1).repeat_interleave(length)]).to(
        device
    )
    seen = (group[:, None] == group[None]) | (group[None] == 0)
    seen &= torch.ones(size, size, dtype=torch.bool, device=device).tril()
    added = torch.zeros(size, size, dtype=dtype, device=device)
    return added.masked_fill_(~seen, torch.finfo(dtype).min)[None, None]
