"""The dial: settings of a run derived from depth, by rules with stated sources.

Pure functions. The recipe takes width, heads and learning rates from here unless they are set, and the batch
and steps of pretraining if they are `auto` (`headwater/recipe.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from headwater.llm.model.shape import HEAD_WIDTH, ModelConfig, Shape, parameter_count, shape_of

REFERENCE_DEPTH = 4
LEARNING_RATES = {"pretrain": 3e-3, "sft": 1e-3, "dpo": 1e-4, "reward": 3e-4, "rl": 1e-4}
"""AdamW's peak rates at the reference depth, found by experiment."""
TOKENS_PER_PARAMETER = 20.0
"""Compute-optimal number of training tokens (Hoffmann et al. 2022, "Chinchilla", table 3)."""
BATCH_FACTOR, BATCH_EXPONENT = 0.58, 0.571
"""Li et al. 2025 ("Step Law", arXiv 2503.04715): the best batch grows with the tokens, for any model size."""


@dataclass(frozen=True)
class Derived:
    """The settings that the dial derives for a pretraining run."""

    shape: Shape
    learning_rate: float
    tokens: int
    """The horizon: tokens to train on in total."""
    batch: int
    """Rows per step."""
    steps: int


def learning_rate(stage: str, depth: int) -> float:
    """AdamW's peak rate for a stage, to four digits: scales with width^-0.5 (nanochat).

    Muon's rate is not scaled: its updates have a fixed spectral norm, so one rate fits all widths (Jordan et
    al. 2024; nanochat also keeps it fixed).
    """
    return scaled_rate(LEARNING_RATES[stage], REFERENCE_DEPTH, depth)


def scaled_rate(rate: float, depth: int, other: int) -> float:
    """A rate tuned at one depth, rescaled for another."""
    return float(f"{rate * (other / depth) ** -0.5:.4g}")


def learning_parameters(shape: Shape) -> int:
    """Parameters used in matrix products per token: all except an input embedding that is not also the head.

    With this count one number of tokens per parameter fits small models with large vocabularies, too
    (nanochat).
    """
    lookup = 0 if shape.tie_word_embeddings else shape.vocab_size * shape.hidden_size
    return parameter_count(shape) - lookup


def horizon(shape: Shape, tokens_per_parameter: float = TOKENS_PER_PARAMETER) -> int:
    """Number of tokens to train on."""
    return round(tokens_per_parameter * learning_parameters(shape))


def batch_tokens(tokens: int) -> float:
    """The best batch for a horizon, both in tokens (Li et al. 2025)."""
    return float(BATCH_FACTOR * tokens**BATCH_EXPONENT)


def batch_rows(tokens: int, row_length: int) -> int:
    """The best batch in rows: the nearest power of two (in log scale), so that workers share it evenly."""
    return int(2 ** max(0, round(math.log2(batch_tokens(tokens) / row_length))))


def derive(
    model: ModelConfig,
    *,
    vocab_size: int,
    row_length: int,
    tokens_per_parameter: float = TOKENS_PER_PARAMETER,
    batch: int | None = None,
) -> Derived:
    """Settings that follow from a model's shape; a `batch` set by hand also changes the number of steps."""
    shape = shape_of(model, vocab_size)
    tokens = horizon(shape, tokens_per_parameter)
    rows = batch or batch_rows(tokens, row_length)
    return Derived(
        shape=shape,
        learning_rate=learning_rate("pretrain", model.depth),
        tokens=tokens,
        batch=rows,
        steps=max(1, math.ceil(tokens / (rows * row_length))),
    )


RULES = {
    "width": f"{HEAD_WIDTH} × depth (nanochat's aspect ratio), in whole heads",
    "heads": "width / head_width",
    "feed-forward": "mlp_ratio × width: 3, or 4 with two matrices instead of three (nanochat)",
    "attention": "sliding_window and layer_types",
    "learning rate": "3e-3 × (width / 256)^-0.5 (nanochat)",
    "tokens": "tokens per parameter × parameters (Hoffmann et al. 2022: 20)",
    "batch": "0.58 × tokens^0.571 tokens, as a power of two in rows (Li et al. 2025)",
    "steps": "tokens / batch",
}
"""The rules in words, for display."""
