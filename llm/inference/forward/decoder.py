"""The next-token logits of sequences that a model goes on with, each with its own number of positions.

`way_of` finds the fastest way that gives the model's own logits: slots with a lean step for Llama-shaped
models, slots with transformers' forward, or one sequence at a time for models with other kinds of state.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from headwater.cluster.errors import HeadwaterError
from headwater.llm.inference.forward.low_rank import AGREEMENT, only
from headwater.llm.inference.forward.slots import LayerShape, Pass, Slots
from headwater.llm.model.coverage import KERNELS

logger = logging.getLogger(__name__)

FIXED_ROPE = ("default", "linear", "llama3", "yarn")
"""Rotations that depend on a position alone, not on the longest one."""
PROBE = 6
"""Ids that a model reads when its decoder is chosen."""
FEW_ROWS = 32
"""Up to so many rows MKL multiplies a large matrix by their transpose two to four times as fast."""


class Decoder(Protocol):
    """Rows of sequences and the model that reads them."""

    @property
    def bytes_per_position(self) -> int:
        """Memory of one position of one row; 0 if unknown."""
        ...

    shares: bool
    """Whether a row can begin with another's positions."""
    device: torch.device

    def reserve(self, rows: int, positions: int, live: int) -> None: ...
    def clear(self, row: int) -> None: ...
    def copy(self, source: int, target: int, length: int) -> None: ...
    def move(self, source: int, target: int) -> None: ...
    def swap(self, one: int, other: int) -> None: ...
    def kept(self, row: int, length: int) -> list[torch.Tensor]: ...
    def restore(self, row: int, kept: list[torch.Tensor], length: int) -> None: ...

    def read(self, rows: Sequence[int], starts: Sequence[int], ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Continue rows of `starts` positions by `ids`. Returns the logits [R, V] after the last of each."""
        ...


class SlotDecoder(Slots):
    """Reads rows of slots in batches."""

    shares = True

    def __init__(self, model: Any, layers: Sequence[LayerShape], *, lean: bool = False) -> None:
        first = next(model.parameters())
        super().__init__(layers, first.dtype, first.device)
        self.model = model
        self._lean = LeanStep(model) if lean else None

    def read(self, rows: Sequence[int], starts: Sequence[int], ids: Sequence[Sequence[int]]) -> torch.Tensor:
        one = Pass(self, rows, starts, ids)
        if self._lean is not None and one.ids_RT.shape[1] == 1:
            return self._lean(one)
        windows = {layer.window for layer in self.layers}
        mask: Any = one.mask(next(iter(windows)))
        if len(windows) > 1:
            kinds = self.model.config.get_text_config(decoder=True).layer_types
            mask = {kind: one.mask(layer.window) for kind, layer in zip(kinds, self.layers, strict=True)}
        logits_RTV: torch.Tensor = self.model(
            input_ids=one.ids_RT,
            attention_mask=mask,
            position_ids=one.positions_RT,
            past_key_values=one,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits_RTV[:, -1]


class LeanStep:
    """One decoding step of a Llama-shaped model: its own modules without the code around them."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._on_cpu = model.device.type == "cpu" and model.dtype == torch.float32

    def __call__(self, one: Pass) -> torch.Tensor:
        base = self.model.model
        x_RE = base.embed_tokens(one.ids_RT[:, 0])
        cos_R1D, sin_R1D = base.rotary_emb(x_RE, one.positions_RT)
        mask_R11W = one.mask(None)
        for number, layer in enumerate(base.layers):
            attention = layer.self_attn
            mixed_RE = self._attend(
                attention, number, layer.input_layernorm(x_RE), cos_R1D, sin_R1D, one, mask_R11W
            )
            x_RE = x_RE + mixed_RE
            x_RE = x_RE + layer.mlp(layer.post_attention_layernorm(x_RE))
        return self._logits(base.norm(x_RE))

    def _logits(self, x_RE: torch.Tensor) -> torch.Tensor:
        head = self.model.lm_head
        if self._on_cpu and len(x_RE) <= FEW_ROWS and head.bias is None:
            return torch.mm(head.weight, x_RE.T).T.contiguous()
        logits_RV: torch.Tensor = head(x_RE)
        return logits_RV

    def _attend(
        self, attention: Any, number: int, x_RE: Any, cos: Any, sin: Any, one: Pass, mask: Any
    ) -> Any:
        rows, width = x_RE.shape[0], attention.head_dim
        q_RHD = attention.q_proj(x_RE).view(rows, -1, width)
        k_RKD = attention.k_proj(x_RE).view(rows, -1, width)
        v_RKD = attention.v_proj(x_RE).view(rows, -1, width)
        if hasattr(attention, "q_norm"):
            q_RHD, k_RKD = attention.q_norm(q_RHD), attention.k_norm(k_RKD)
        q_RHD, k_RKD = rotated(q_RHD, cos, sin), rotated(k_RKD, cos, sin)
        keys, values = one.write(number, k_RKD[:, :, None], v_RKD[:, :, None])
        if self._on_cpu:  # half the time of torch's fused kernel, which is made for many queries
            scores = torch.matmul((q_RHD * attention.scaling).view(rows, keys.shape[1], -1, width), keys.mT)
            return attention.o_proj(torch.matmul(scores.add_(mask).softmax(-1), values).view(rows, -1))
        q_RKGD = q_RHD.view(rows, keys.shape[1], -1, width)  # heads that share keys are queries of one head
        mixed = F.scaled_dot_product_attention(q_RKGD, keys, values, attn_mask=mask, scale=attention.scaling)
        return attention.o_proj(mixed.reshape(rows, -1))


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE (Su et al. 2021) on halves, as transformers does it."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


class ApartDecoder:
    """Reads one sequence after another, with the cache that transformers makes for the model."""

    bytes_per_position = 0
    shares = False

    def __init__(self, model: Any) -> None:
        self.model, self._caches = model, []  # type: ignore[var-annotated]
        self.device = next(model.parameters()).device

    def reserve(self, rows: int, positions: int, live: int) -> None:
        self._caches += [None] * (rows - len(self._caches))

    def clear(self, row: int) -> None:
        self._caches[row] = None

    def copy(self, source: int, target: int, length: int) -> None:
        raise NotImplementedError("`shares` is False: rows have nothing in common")

    def kept(self, row: int, length: int) -> list[torch.Tensor]:
        raise NotImplementedError("`shares` is False: its caches are not cut")

    def restore(self, row: int, kept: list[torch.Tensor], length: int) -> None:
        raise NotImplementedError("`shares` is False: rows have nothing in common")

    def move(self, source: int, target: int) -> None:
        self._caches[target], self._caches[source] = self._caches[source], None

    def swap(self, one: int, other: int) -> None:
        self._caches[one], self._caches[other] = self._caches[other], self._caches[one]

    def read(self, rows: Sequence[int], starts: Sequence[int], ids: Sequence[Sequence[int]]) -> torch.Tensor:
        from transformers import DynamicCache

        logits = []
        for place, (row, given) in enumerate(zip(rows, ids, strict=True)):
            if self._caches[row] is None:
                self._caches[row] = DynamicCache(config=self.model.config)
            with only(place):
                found = self.model(
                    input_ids=torch.tensor([given], device=self.device),
                    past_key_values=self._caches[row],
                    use_cache=True,
                )
            logits.append(found.logits[0, -1])
        return torch.stack(logits)


@dataclass(frozen=True)
class Way:
    """How a model is decoded."""

    layers: tuple[LayerShape, ...] | None
    """What its slots hold; None: it is read one sequence at a time."""
    lean: bool
    """Whether `LeanStep` gives its logits."""

    def open(self, model: Any) -> Decoder:
        if self.layers is None:
            return ApartDecoder(model)
        return SlotDecoder(model, self.layers, lean=self.lean and not _hooked(model))


@torch.inference_mode()
def way_of(model: Any) -> Way:
    """The fastest way that gives the model's own logits over a few ids.

    Raises HeadwaterError if there is none.
    """
    from transformers import DynamicCache

    ids = list(range(1, PROBE + 1))
    given = torch.tensor([ids], device=next(model.parameters()).device)
    cache = DynamicCache(config=model.config)
    plain_TV = model(input_ids=given, past_key_values=cache, use_cache=True).logits[0]
    layers = _layer_shapes(cache)
    if layers is not None and _agrees(SlotDecoder(model, layers), ids, plain_TV):
        lean = all(layer.window is None for layer in layers) and _llama_shaped(model)
        return Way(layers, lean and _agrees(SlotDecoder(model, layers, lean=True), ids, plain_TV))
    name = type(model).__name__
    if not _agrees(ApartDecoder(model), ids, plain_TV):
        raise HeadwaterError(
            f"{name} does not go on from transformers' DynamicCache",
            fix="use a model that does, such as Llama, Qwen, Mistral, Gemma or GPT-2",
        )
    logger.warning(
        "%s needs more than keys and values of each position: it decodes one sequence at a time", name
    )
    return Way(None, lean=False)


def _layer_shapes(cache: Any) -> tuple[LayerShape, ...] | None:
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return None
    return tuple(
        LayerShape(
            heads=layer.keys.shape[1],
            key_width=layer.keys.shape[3],
            value_width=layer.values.shape[3],
            window=getattr(layer, "sliding_window", None),
        )
        for layer in cache.layers
    )


def _llama_shaped(model: Any) -> bool:
    config = model.config
    return (
        config.model_type in KERNELS
        and type(model).__name__.endswith("ForCausalLM")
        and config._attn_implementation == "sdpa"
        and config.rope_parameters["rope_type"] in FIXED_ROPE
    )


def _agrees(decoder: Decoder, ids: list[int], plain_TV: torch.Tensor) -> bool:
    """Whether two rows of different lengths, continued by one id, give the logits of the plain pass."""
    decoder.reserve(2, len(ids), 0)
    try:
        decoder.read([0, 1], [0, 0], [ids[:4], ids[:3]])
        found_RV = decoder.read([0, 1], [4, 3], [[ids[4]], [ids[3]]])
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        logger.debug("slots do not fit the model: %s", error)  # its forward knows another mask or cache
        return False
    wanted_RV = plain_TV[[4, 3]]
    difference = (found_RV - wanted_RV).abs().max()
    return bool(difference <= AGREEMENT[found_RV.dtype] * wanted_RV.abs().max())


def _hooked(model: Any) -> bool:
    """Whether someone changes or watches a forward pass, which `LeanStep` would go around."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
