"""Choosing tokens: each sequence draws from its own stream of random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from headwater.llm.inference.base import Sampling, Token
from headwater.llm.inference.next_token.guided import Guide

SMALLEST = 1e-6
"""Logits are divided by no less than this, or they would leave fp32; it chooses as the limit of 0 does."""


@dataclass(eq=False)
class Choices:
    """What one sequence has chosen, and what its next choice depends on besides the logits."""

    prompt: tuple[int, ...]
    sampling: Sampling
    uniforms: np.ndarray | None
    """[max_tokens] draws; None: the most likely token."""
    ends: frozenset[int] = frozenset()
    """Ids that end the completion."""
    guide: Guide | None = None
    ids: list[int] = field(default_factory=list)

    @property
    def kind(self) -> tuple[float, float, int, float]:
        """Settings of `sample`: sequences that share them are sampled together."""
        given = self.sampling
        temperature = max(given.temperature, SMALLEST) if given.temperature else 0.0
        return temperature, given.top_p, given.top_k, given.min_p

    @property
    def edits(self) -> bool:
        """Whether this choice is made from other logits than the model's."""
        given = self.sampling
        return (
            self.guide is not None
            or bool(given.logit_bias or given.presence_penalty or given.frequency_penalty)
            or given.repetition_penalty != 1
            or len(self.ids) < given.min_tokens
        )

    def say(self, ids: Sequence[int]) -> None:
        """Take ids that have been chosen before."""
        for id in ids:
            if self.guide is not None:
                self.guide.take_again(id, self.sampling.max_tokens - len(self.ids))
            self.ids.append(id)

    def edit(self, logits_V: torch.Tensor) -> None:
        """Apply penalties, bias, the minimum length and the guide, in this order and in place.

        The repetition penalty needs the model's own signs, so it comes first; the others are sums.
        """
        given, device = self.sampling, logits_V.device
        if given.repetition_penalty != 1:
            seen = torch.tensor([*self.prompt, *self.ids], device=device).unique()
            old, by = logits_V[seen], max(given.repetition_penalty, SMALLEST)
            logits_V[seen] = torch.where(old > 0, old / by, old * by)
        if self.ids and (given.presence_penalty or given.frequency_penalty):
            seen, counts = torch.tensor(self.ids, device=device).unique(return_counts=True)
            logits_V[seen] -= given.presence_penalty + given.frequency_penalty * counts
        if given.logit_bias:
            ids, added = zip(*given.logit_bias, strict=True)
            places = torch.tensor(ids, device=device)
            logits_V.index_add_(0, places, torch.tensor(added, dtype=logits_V.dtype, device=device))
        if self.guide is not None:
            logits_V.masked_fill_(~self.guide.allowed(len(logits_V)).to(device), -torch.inf)
        elif len(self.ids) < given.min_tokens:
            logits_V[list(self.ends)] = -torch.inf


def choose(logits_BV: torch.Tensor, rows: Sequence[Choices]) -> list[Token]:
    """The next token of each row, from the model's logits after what the row has.

    A row's token depends on its own logits and settings alone. Log-probabilities are those of the model's
    distribution at the row's temperature (at 0: unscaled), before penalties, bias, guide and cuts.
    """
    kinds: dict[tuple[tuple[float, float, int, float], bool], list[int]] = {}
    for place, row in enumerate(rows):
        kinds.setdefault((row.kind, row.edits), []).append(place)
    found: dict[int, Token] = {}
    for ((temperature, top_p, top_k, min_p), edits), places in kinds.items():
        part = [rows[place] for place in places]
        draws = None
        if temperature:
            numbers = [row.uniforms[len(row.ids)] for row in part]  # type: ignore[index]
            draws = torch.tensor(np.array(numbers), device=logits_BV.device)
        own_BV = (logits_BV if len(places) == len(rows) else logits_BV[places]).float()
        if not edits and not top_k and not min_p:
            tokens_B, logprobs_B = sample(own_BV, temperature, top_p, draws)
        else:
            edited_BV = own_BV.clone()
            for row, logits_V in zip(part, edited_BV, strict=True):
                if edits:
                    row.edit(logits_V)
            tokens_B, _ = sample(edited_BV, temperature, top_p, draws, top_k=top_k, min_p=min_p)
            tokens_B = torch.tensor(
                [_guided(row, token) for row, token in zip(part, tokens_B.tolist(), strict=True)],
                device=own_BV.device,
            )
            logprobs_B = log_probability(own_BV / (temperature or 1), tokens_B)
        tops = _tops(own_BV, temperature, part)
        each: Any = zip(places, tokens_B.tolist(), logprobs_B.tolist(), tops, strict=True)
        found |= {place: Token(token, logprob, top) for place, token, logprob, top in each}
    return [found[place] for place in range(len(rows))]


def _guided(row: Choices, token: int) -> int:
    """The token itself, or one that still lets a guided text end within its tokens."""
    if row.guide is None:
        return token
    return row.guide.take(token, row.sampling.max_tokens - len(row.ids))


def _tops(
    logits_BV: torch.Tensor, temperature: float, rows: Sequence[Choices]
) -> list[tuple[tuple[int, float], ...]]:
    """`Token.top` of each row."""
    most = max(row.sampling.top_logprobs for row in rows)
    if not most:
        return [()] * len(rows)
    logprobs_BV = (logits_BV / (temperature or 1)).log_softmax(-1)
    values_BK, ids_BK = logprobs_BV.topk(min(most, logits_BV.shape[-1]), dim=-1)
    both = zip(rows, ids_BK.tolist(), values_BK.tolist(), strict=True)
    return [tuple(zip(ids, values, strict=True))[: row.sampling.top_logprobs] for row, ids, values in both]


def uniforms(sampling: Sampling, seed: int | None, sample_number: int = 0) -> np.ndarray | None:
    """[max_tokens] draws in [0, 1) of a sequence; None if nothing is sampled.

    They depend on the seed and the sample's number under it. Without a seed they differ every time.
    """
    if sampling.temperature == 0:
        return None
    sequence = np.random.SeedSequence(seed, spawn_key=(sample_number,))
    return np.random.Generator(np.random.Philox(sequence)).random(sampling.max_tokens, dtype=np.float32)


def sample(
    logits_BV: torch.Tensor,
    temperature: float,
    top_p: float,
    uniforms_B: torch.Tensor | None,
    *,
    top_k: int = 0,
    min_p: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose one token per row by inverse transform sampling from given uniforms in [0, 1).

    Returns ids [B] and their log-probabilities [B] before top-p. At temperature 0 (`uniforms_B` None) the
    most likely token is taken. Min-p and then top-k cut the distribution at this temperature; top-p (Holtzman
    et al. 2019) keeps the fewest tokens that reach p of what they left. Only a p below 1 needs the vocabulary
    in order. A logit of −inf is never chosen.
    """
    if uniforms_B is None:
        tokens_B = logits_BV.argmax(-1)
        return tokens_B, log_probability(logits_BV, tokens_B)
    logits_BV = logits_BV / temperature
    if min_p:
        least_B1 = logits_BV.amax(-1, keepdim=True) + float(np.log(min_p))
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    if 0 < top_k < logits_BV.shape[-1]:
        values_BK, ids_BK = logits_BV.topk(top_k, dim=-1)
        logits_BV = torch.full_like(logits_BV, -torch.inf).scatter_(-1, ids_BK, values_BK)
    if top_p >= 1:
        # In fp64: in fp32 the tail of a large vocabulary is lost in the rounding of the sum.
        probabilities_BV = logits_BV.softmax(-1)
        cumulative_BV = probabilities_BV.cumsum(-1, dtype=torch.float64)
        drawn_B1 = uniforms_B[:, None].double() * cumulative_BV[:, -1:]
        tokens_B1 = torch.searchsorted(cumulative_BV, drawn_B1, right=True)
        return tokens_B1[:, 0], probabilities_BV.gather(-1, tokens_B1)[:, 0].log()
    probabilities_BV, order_BV = logits_BV.softmax(-1).sort(-1, descending=True)
    cumulative_BV = probabilities_BV.cumsum(-1)
    before_BV = cumulative_BV - probabilities_BV
    kept_B = ((before_BV < top_p) & (probabilities_BV > 0)).sum(-1, keepdim=True).clamp(min=1)
    mass_B1 = cumulative_BV.gather(-1, kept_B - 1)
    rank_B1 = torch.searchsorted(cumulative_BV, uniforms_B[:, None].to(cumulative_BV) * mass_B1, right=True)
    tokens_B = order_BV.gather(-1, torch.minimum(rank_B1, kept_B - 1))[:, 0]
    return tokens_B, log_probability(logits_BV, tokens_B)


def log_probability(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[ids] over the last axis, without a second tensor of the logits' size."""
    return logits.gather(-1, ids[..., None])[..., 0] - logits.logsumexp(-1)
