"""The sizes of a transformer: from depth to a Hugging Face config, its parameters and FLOPs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from headwater.cluster.runtime.stage import StageConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast, Qwen3Config


HEAD_WIDTH = 64


class ModelConfig(StageConfig):
    """The transformer's shape. Set `depth`; the rest follows from it unless given."""

    depth: int = Field(4, ge=1)
    """Number of layers; width, heads and feed-forward size follow from it."""
    width: int | None = Field(None, ge=HEAD_WIDTH, multiple_of=HEAD_WIDTH)
    """Hidden size, a multiple of 64. Default: 64 × depth."""
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

    def resolved_width(self) -> int:
        return self.width or HEAD_WIDTH * self.depth


@dataclass(frozen=True)
class Shape:
    """All sizes that determine a transformer's parameters, under transformers' names."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool


def shape_of(model: ModelConfig, vocab_size: int) -> Shape:
    width = model.resolved_width()
    heads = max(1, width // HEAD_WIDTH)
    kv_heads = max(1, heads // model.kv_groups)
    while heads % kv_heads:
        kv_heads += 1
    return Shape(
        vocab_size=-(-vocab_size // 64) * 64,  # padded for matrix units; the extra ids never occur
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=model.depth,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=HEAD_WIDTH,
        tie_word_embeddings=model.tie_embeddings,
    )


def hf_config(model: ModelConfig, vocab_size: int, tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """The transformers config of this shape."""
    from transformers import Qwen3Config

    return Qwen3Config(
        **asdict(shape_of(model, vocab_size)),
        max_position_embeddings=model.context,
        rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta},
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )


def parameter_count(config: PreTrainedConfig | Shape) -> int:
    """Number of parameters, computed from the shape: exact for Qwen3, Qwen2 and Llama without biases.

    Raises AttributeError for a config that names its sizes otherwise.
    """
    c: Any = config
    kind = getattr(c, "model_type", "qwen3")
    width = _head_width(c)
    attention = 2 * c.hidden_size * width * (c.num_attention_heads + c.num_key_value_heads)
    norms = 2 * c.hidden_size + (2 * width if kind == "qwen3" else 0)
    biases = width * (c.num_attention_heads + 2 * c.num_key_value_heads) if kind == "qwen2" else 0
    layer = attention + 3 * c.hidden_size * c.intermediate_size + norms + biases
    embeddings = c.vocab_size * c.hidden_size * (1 if c.tie_word_embeddings else 2)
    return c.num_hidden_layers * layer + embeddings + c.hidden_size


def _head_width(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def flops_per_token(
    config: PreTrainedConfig | Shape, row_length: int, *, head: bool = True, adapters: int | None = None
) -> int:
    """Training FLOPs per token: 6 per matrix parameter + attention (PaLM, Chowdhery et al. 2022, app. B).

    Of the 6, 2 each are the forward pass, the gradient of the activations and that of the weights. Frozen
    matrices lack the last: with `adapters`, the number of trained parameters beside them (LoRA), they cost 4.
    `head`: whether the output matrix is used; a reward model has none.
    """
    c: Any = config
    table = c.vocab_size * c.hidden_size
    unused = (0 if c.tie_word_embeddings else table) + (0 if head else table)
    matrices = parameter_count(config) - unused
    attention = 12 * c.num_hidden_layers * c.num_attention_heads * _head_width(c) * row_length
    weights = 6 * matrices if adapters is None else 4 * matrices + 6 * adapters
    return weights + int(attention)


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
