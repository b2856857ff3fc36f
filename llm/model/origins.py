"""Models without values: each parameter knows where its values come from; any part of it can be made alone.

The parameters of such a model are on the meta device and have an `origin`. Training gives each worker the
memory that its sharding needs, and fills only that (`llm/training/state/birth.py`). `filled` makes a whole
model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from headwater.llm.model.architecture import of_config
from headwater.llm.model.draws import normals, uniforms

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CHUNK = 1 << 14
"""Elements drawn at a time: what is computed of them stays in the cache."""
OUTPUTS = ("o_proj.weight", "down_proj.weight", "mlp.fc2.weight")
"""Projections into the residual stream."""


class Origin(Protocol):
    """Where the values of a parameter come from."""

    def read(self, start: int, into: torch.Tensor) -> None:
        """Write the elements from `start` on of the flattened parameter into a flat tensor of any number
        format."""
        ...


@dataclass(frozen=True)
class Constant:
    value: float

    def read(self, start: int, into: torch.Tensor) -> None:
        into.fill_(self.value)


@dataclass(frozen=True)
class Drawn:
    """Normal values with mean 0 (`draws.normals`)."""

    seed: int
    name: str
    std: float
    blank: tuple[int, int] = (0, 0)
    """First and last + 1 of the elements that are 0."""

    def read(self, start: int, into: torch.Tensor) -> None:
        for first in range(0, into.numel(), CHUNK):
            part = into[first : first + CHUNK]
            values = normals(self.seed, self.name, start + first, part.numel())
            part.copy_(torch.from_numpy(values * self.std))
        begin, end = (min(max(place - start, 0), into.numel()) for place in self.blank)
        into[begin:end] = 0.0


@dataclass(frozen=True)
class Uniform:
    """Uniform values between -bound and bound."""

    seed: int
    name: str
    bound: float

    def read(self, start: int, into: torch.Tensor) -> None:
        for first in range(0, into.numel(), CHUNK):
            part = into[first : first + CHUNK]
            values = uniforms(self.seed, self.name, start + first, part.numel())
            part.copy_(torch.from_numpy((2 * values - 1) * self.bound))


def blank(make: Callable[[], Any]) -> Any:
    """A transformers model as `make` builds it: parameters on the meta device, buffers with their values."""
    with torch.device("meta"):
        model = make()
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.empty_like(buffer, device="cpu")
    model.initialize_weights()  # computes the buffers; on the meta device it does nothing
    return model


def set_origins(model: torch.nn.Module, origin_of: Callable[[str, torch.nn.Parameter], Origin]) -> None:
    for name, parameter in model.named_parameters():
        parameter.origin = origin_of(name, parameter)  # type: ignore[attr-defined]


def origins(model: torch.nn.Module) -> dict[str, Origin]:
    """Parameter → its origin, of those without values."""
    found: Iterator[tuple[str, Any]] = ((name, p) for name, p in model.named_parameters() if p.is_meta)
    return {name: parameter.origin for name, parameter in found}


def give_memory(model: torch.nn.Module, memory: Callable[[torch.Tensor], torch.Tensor]) -> list[Any]:
    """Replace every parameter on the meta device by one with `memory`, which has undefined values. Shared
    parameters stay shared. Returns the new ones."""
    made: dict[torch.Tensor, Any] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and parameter.is_meta:
                if parameter not in made:
                    made[parameter] = torch.nn.Parameter(memory(parameter), parameter.requires_grad)
                module._parameters[name] = made[parameter]
    return list(made.values())


def filled(model: torch.nn.Module, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The same model, with its values."""
    sources = origins(model)
    give_memory(model, lambda parameter: torch.empty(parameter.shape, dtype=dtype))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in sources:
                sources[name].read(0, parameter.view(-1))
    return model


def fresh(config: PreTrainedConfig, seed: int, *, zero_outputs: bool = False) -> torch.nn.Module:
    """A new model without values. These depend on the seed, a parameter's name and an element's place in it.

    Weights are normal with standard deviation 0.02. Projections into the residual stream are scaled by
    1 / sqrt(2 × layers) (GPT-2, Radford et al. 2019), or zero with `zero_outputs`. Norms multiply by 1, and
    the embedding of padding is 0.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    sizes: Any = config
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    pad, scale, gain = sizes.pad_token_id, (2 * sizes.num_hidden_layers) ** -0.5, of_config(config).gain

    def origin_of(name: str, parameter: torch.nn.Parameter) -> Origin:
        if parameter.ndim < 2:
            return Constant(gain)
        std = sizes.initializer_range
        if name.endswith(OUTPUTS):
            return Constant(0.0) if zero_outputs else Drawn(seed, name, std * scale)
        if name.endswith("embed_tokens.weight") and pad is not None:
            width = parameter.shape[1]
            return Drawn(seed, name, std, (pad * width, (pad + 1) * width))
        return Drawn(seed, name, std)

    model: torch.nn.Module = blank(lambda: kind(config)).float()
    set_origins(model, origin_of)
    return model
