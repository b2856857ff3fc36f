"""A value head on a language model: one number for each position, from its last hidden state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

HEAD = "value_head"
T = TypeVar("T")


def with_value_head(model: Any) -> Any:
    """The model with a head whose values are 0 at first. Its logits stay the same."""
    import torch

    model.value_head = torch.nn.Linear(model.config.hidden_size, 1, bias=False, dtype=model.dtype)
    torch.nn.init.zeros_(model.value_head.weight)
    return model


def without_head(weights: Mapping[str, T]) -> dict[str, T]:
    """Weights by name, without those of a value head."""
    return {name: values for name, values in weights.items() if not name.startswith(f"{HEAD}.")}


def logits_and_values(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each token after the first, what the model says before it: ids [B, L+1] → logits [B, L, V], and
    values [B, L] in fp32, in units of the reward. `model` may be an engine."""
    said = model(input_ids=ids[:, :-1], use_cache=False, output_hidden_states=True)
    head = getattr(model, "module", model).value_head
    return said.logits, head(said.hidden_states[-1])[..., 0].float()
