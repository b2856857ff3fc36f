"""The sizes of a transformer: from depth to a Hugging Face config, its parameters and FLOPs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from headwater.cluster.runtime.stage import StageConfig, unkeyed
from headwater.llm.model.architecture import ARCHITECTURES, Name, of_config, with_feature

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast


HEAD_WIDTH = 64
LOCAL_THETA = 10_000.0
"""Base of the rotary frequencies in Gemma 3's sliding layers (Gemma 3 report, 2025, section 2)."""
SLIDING, FULL = "sliding_attention", "full_attention"
"""transformers' names of a layer's attention."""


class ModelConfig(StageConfig):
    """The transformer's shape. Set `depth`; the rest follows from it unless given."""

    depth: int = Field(4, ge=1)
    """Number of layers; width, heads and feed-forward size follow from it."""
    architecture: Name = Field("qwen3", exclude_if=unkeyed("qwen3"))
    """transformers' classes that the model is made of: `qwen3`, `llama`, `gemma2`, `gemma3`, `nanochat`."""
    width: int | None = Field(None, ge=HEAD_WIDTH, multiple_of=HEAD_WIDTH)
    """Hidden size, a multiple of 64 and of `head_width`. Default: 64 × depth, rounded up to whole heads."""
    head_width: int = Field(HEAD_WIDTH, ge=8, multiple_of=8, exclude_if=unkeyed(HEAD_WIDTH))
    """Channels of a head. Query heads: width / head_width."""
    mlp_ratio: float | None = Field(None, gt=0, exclude_if=unkeyed(None))
    """Width of the feed-forward layers relative to the model's, rounded to a multiple of 64. Default: 3, or
    4 for `nanochat`, whose layers have two matrices instead of three."""
    kv_groups: int = Field(2, ge=1)
    """Query heads per key/value head (Ainslie et al. 2023). More groups make the KV cache smaller."""
    context: int = Field(1024, ge=2)
    """Longest sequence the model accepts, in tokens."""
    rope_theta: float = Field(10_000.0, gt=1)
    """Base of the rotary position frequencies (RoPE). Raise it for long contexts."""
    tie_embeddings: bool = True
    """Use the input embedding table as the output head. Saves its parameters."""
    zero_outputs: bool = False
    """Initialise the projections into the residual stream to zero: layers start as identity (nanochat)."""
    sliding_window: int | None = Field(None, ge=2, exclude_if=unkeyed(None))
    """Tokens that a sliding layer attends to, the last one included. Default: every layer attends to all."""
    layer_types: tuple[Literal["sliding", "full"], ...] = Field(
        ("sliding", "full"), min_length=1, exclude_if=unkeyed(("sliding", "full"))
    )
    """Kinds of layers with a `sliding_window`, from the first on, repeated over the depth: Gemma 2 takes
    turns, Gemma 3 has five `sliding` ones to a `full` one."""
    logit_softcap: float | None = Field(None, ge=0, exclude_if=unkeyed(None))
    """Logits are capped smoothly: cap × tanh(logit / cap). 0 turns it off. Default: 30 for `gemma2`, 15
    for `nanochat`, none for `gemma3`; `qwen3` and `llama` have none."""

    @model_validator(mode="after")
    def _of_the_architecture(self) -> ModelConfig:
        own = ARCHITECTURES[self.architecture]
        if self.width is not None and self.width % self.head_width:
            raise ValueError(
                f"a `width` of {self.width} is no whole number of heads: choose a multiple of `head_width` "
                f"({self.head_width})"
            )
        if self.sliding_window is not None and not own.windows:
            raise ValueError(
                f"{self.architecture} has no sliding windows: remove `sliding_window`, or choose an "
                f"`architecture` of {with_feature('windows')}"
            )
        if self.sliding_window is None and self.layer_types != ("sliding", "full"):
            raise ValueError("`layer_types` needs a `sliding_window`: set it, or remove `layer_types`")
        if self.logit_softcap is not None and own.softcap is None:
            raise ValueError(
                f"{self.architecture} cannot cap its logits: remove `logit_softcap`, or choose an "
                f"`architecture` of {with_feature('softcap')}"
            )
        return self

    def resolved_width(self) -> int:
        return self.width or -(-HEAD_WIDTH * self.depth // self.head_width) * self.head_width

    def kinds(self) -> tuple[str, ...]:
        """transformers' name of each layer's attention."""
        if self.sliding_window is None:
            return (FULL,) * self.depth
        return tuple(f"{self.layer_types[n % len(self.layer_types)]}_attention" for n in range(self.depth))

    def softcap(self) -> float | None:
        """The cap of the logits, None without."""
        own = ARCHITECTURES[self.architecture].softcap if self.logit_softcap is None else self.logit_softcap
        return own or None


@dataclass(frozen=True)
class Shape:
    """All sizes that determine a transformer's parameters and FLOPs, under transformers' names."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool
    model_type: str
    sliding_window: int | None
    layer_types: tuple[str, ...]

    def sizes(self) -> dict[str, Any]:
        """Those that every architecture of transformers has."""
        rest = ("model_type", "sliding_window", "layer_types")
        return {name: value for name, value in vars(self).items() if name not in rest}


def shape_of(model: ModelConfig, vocab_size: int) -> Shape:
    width, own = model.resolved_width(), ARCHITECTURES[model.architecture]
    heads = width // model.head_width
    kv_heads = max(1, heads // model.kv_groups)
    while heads % kv_heads:
        kv_heads += 1
    ratio = own.mlp_ratio if model.mlp_ratio is None else model.mlp_ratio
    return Shape(
        vocab_size=-(-vocab_size // 64) * 64,  # padded for matrix units; the extra ids never occur
        hidden_size=width,
        intermediate_size=64 * max(1, round(ratio * width / 64)),
        num_hidden_layers=model.depth,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=model.head_width,
        tie_word_embeddings=model.tie_embeddings,
        model_type=own.model_type,
        sliding_window=model.sliding_window,
        layer_types=model.kinds(),
    )


def hf_config(model: ModelConfig, vocab_size: int, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """The transformers config of this shape."""
    from transformers import CONFIG_MAPPING

    shape = shape_of(model, vocab_size)
    rope = {"rope_type": "default", "rope_theta": model.rope_theta}
    settings: dict[str, Any] = {
        **shape.sizes(),
        "max_position_embeddings": model.context,
        "rope_parameters": rope,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "use_cache": True,
    }
    if model.architecture == "qwen3" and model.sliding_window is not None:
        settings["use_sliding_window"] = True
        settings |= {"sliding_window": model.sliding_window, "layer_types": list(shape.layer_types)}
    if model.architecture in ("gemma2", "gemma3"):
        # Gemma makes the mask of a window even if no layer has one.
        settings["sliding_window"] = model.sliding_window or model.context + 1
        settings |= {"layer_types": list(shape.layer_types), "query_pre_attn_scalar": model.head_width}
    if model.architecture == "gemma3":
        settings["rope_parameters"] = {FULL: rope, SLIDING: rope | {"rope_theta": LOCAL_THETA}}
    if ARCHITECTURES[model.architecture].softcap is not None:
        settings["final_logit_softcapping"] = model.softcap()
    return CONFIG_MAPPING[shape.model_type](**settings)


def parameter_count(config: PreTrainedConfig | Shape) -> int:
    """Number of parameters, computed from the shape: exact for the architectures of `architecture.py`, Qwen2,
    and those shaped like Llama without biases.

    Raises AttributeError for a config that names its sizes otherwise.
    """
    c: Any = config
    own, width = of_config(c), _head_width(c)
    attention = 2 * c.hidden_size * width * (c.num_attention_heads + c.num_key_value_heads)
    norms = own.layer_norms * c.hidden_size + (2 * width if own.head_norms else 0)
    if getattr(c, "model_type", "") == "qwen2":
        attention += width * (c.num_attention_heads + 2 * c.num_key_value_heads)  # biases
    layer = attention + own.mlp_matrices * c.hidden_size * c.intermediate_size + norms
    embeddings = c.vocab_size * c.hidden_size * (1 if c.tie_word_embeddings else 2)
    return c.num_hidden_layers * layer + embeddings + (c.hidden_size if own.last_norm else 0)


def _head_width(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def flops_per_token(
    config: PreTrainedConfig | Shape,
    row_length: int,
    *,
    head: bool = True,
    adapters: int | None = None,
    untouched: int = 0,
) -> int:
    """Training FLOPs per token: 6 per matrix parameter + attention (PaLM, Chowdhery et al. 2022, app. B).

    Of the 6, 2 each are the forward pass, the gradient of the activations and that of the weights. Frozen
    matrices lack the last: with `adapters`, the number of trained parameters beside them (LoRA), they cost 4.
    Those of the first `untouched` layers, below all adapters, cost 2, and their attention a third.
    A sliding layer's tokens count the window instead of the row (nanochat).
    `head`: whether the output matrix is used; a reward model has none.
    """
    c: Any = config
    table = c.vocab_size * c.hidden_size
    unused = (0 if c.tie_word_embeddings else table) + (0 if head else table)
    matrices = parameter_count(config) - unused
    attention = 12 * c.num_attention_heads * _head_width(c) * _seen(c, row_length)
    weights = 6 * matrices if adapters is None else 4 * matrices + 6 * adapters
    tables = table if c.tie_word_embeddings else 2 * table
    spared = 2 * (parameter_count(config) - tables) + 2 * attention / 3
    return weights + int(attention - untouched / c.num_hidden_layers * spared)


def _seen(config: Any, row_length: int) -> int:
    """Tokens that attention reads at a position, summed over the layers; causality is not counted (PaLM)."""
    kinds, window = getattr(config, "layer_types", None) or (), getattr(config, "sliding_window", None)
    sliding = sum(kind == SLIDING for kind in kinds) if window else 0
    return (config.num_hidden_layers - sliding) * row_length + sliding * min(row_length, window or row_length)


@dataclass(frozen=True)
class Weight:
    """One trained tensor of a model: its name and shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements."""
        size = 1
        for side in self.shape:
            size *= side
        return size

    @property
    def hidden(self) -> bool:
        """Whether Muon updates it: matrices except embedding and head (DeepSpeed's rule)."""
        return len(self.shape) >= 2 and not any(word in self.name.lower() for word in ("embed", "lm_head"))

    @property
    def lookup(self) -> bool:
        """Whether it is an embedding table: it has its own learning rate, and so its own optimizer group."""
        return self.name.endswith("embed_tokens.weight")


def weights_of(model: torch.nn.Module) -> list[Weight]:
    """The trained tensors of a model (may be on the meta device); tied ones are listed once."""
    return [Weight(name, tuple(p.shape)) for name, p in model.named_parameters() if p.requires_grad]
