"""FLOPs that a step needs, for MFU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from headwater.llm.model.adapters import is_adapted, untouched_layers
from headwater.llm.model.shape import flops_per_token
from headwater.llm.training.losses import shared_prompts
from headwater.llm.training.undocumented.deepspeed_internals import whole_size

if TYPE_CHECKING:
    import numpy as np
    import torch


def batch_flops(model: Any, arrays: Mapping[str, np.ndarray]) -> float:
    """FLOPs that a step on these rows needs (`shape.flops_per_token`); 0 if the model is no transformer.

    The common beginning of a pair, and the prompt of several answers, count once. Their padding does not
    count.
    """
    config: Any = getattr(model, "config", None)
    head = getattr(model, "get_output_embeddings", lambda: None)() is not None
    trained, untouched = (_trained(model), untouched_layers(model)) if is_adapted(model) else (None, 0)
    total = 0.0
    for tokens, length in _parts(arrays):
        try:
            each = flops_per_token(config, length, head=head, adapters=trained, untouched=untouched)
        except (AttributeError, TypeError):
            return 0.0
        total += tokens * each
    return total


def _parts(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[int, int]]:
    """Number of tokens to read in each part of a batch, and the length of its longest sequence."""
    if "chosen_mask" in arrays:
        sides = (shared_prompts.sequences(arrays, side) for side in ("chosen", "rejected"))
        for pair in zip(*sides, strict=True):
            yield sum(map(len, pair)) - shared_prompts.common(*pair), max(map(len, pair))
    elif "advantages" in arrays:
        for prompt, answers in shared_prompts.groups(arrays["ids"], arrays["mask"]).items():
            lengths = [end - 1 for _, end in answers]  # the last id is only a target
            yield len(prompt) + sum(length - len(prompt) for length in lengths), max(lengths)
    else:
        for name, ahead in (("ids", 1), ("chosen", 0), ("rejected", 0)):
            if name in arrays:
                rows, length = arrays[name].shape[0], arrays[name].shape[1] - ahead
                yield rows * length, length


def _trained(model: torch.nn.Module) -> int:
    """Number of trained parameters, also where ZeRO-3 has partitioned them."""
    return sum(whole_size(p) for p in model.parameters() if p.requires_grad)
