"""The sizes of a transformer: from one dial, depth, to a Hugging Face config, its parameters and FLOPs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from headwater.cluster.runtime.stage import StageConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3Config


HEAD_WIDTH = 64


class ModelConfig(StageConfig):
    """The transformer's shape. Everything but depth may be left to the dial."""

    depth: int = 4
    """Layers; width, heads and feed-forward size follow from it."""
    width: int | None = None
    """Hidden size; 64 × depth unless given. A multiple of 64."""
    kv_groups: int = 2
    """Query heads that share one key/value head (Ainslie et al. 2023)."""
    context: int = 1024
    """Positions the model can see."""
    rope_theta: float = 10_000.0
    tie_embeddings: bool = True
    """The output head is the table of input embeddings."""
    zero_outputs: bool = False
    """Begin with layers that add nothing: the projections into the residual stream are zero (nanochat)."""

    def resolved_width(self) -> int:
        return self.width or HEAD_WIDTH * self.depth


@dataclass(frozen=True)
class Shape:
    """All sizes of a transformer that decide its parameters, under transformers' names."""

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
        vocab_size=-(-vocab_size // 64) * 64,  # a round size suits matrix units; the extra ids never occur
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


def parameter_count(config: Qwen3Config | Shape) -> int:
    """Parameters of the model, from its shape alone."""
    c: Any = config
    attention = 2 * c.hidden_size * c.head_dim * (c.num_attention_heads + c.num_key_value_heads)
    layer = attention + 3 * c.hidden_size * c.intermediate_size + 2 * c.hidden_size + 2 * c.head_dim
    embeddings = c.vocab_size * c.hidden_size * (1 if c.tie_word_embeddings else 2)
    return c.num_hidden_layers * layer + embeddings + c.hidden_size


def flops_per_token(config: Qwen3Config | Shape, row_length: int) -> int:
    """Training FLOPs a token: 6 a matrix parameter plus attention (PaLM, Chowdhery et al. 2022, app. B)."""
    c: Any = config
    embeddings = 0 if c.tie_word_embeddings else c.vocab_size * c.hidden_size
    attention = 12 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * row_length
    return 6 * (parameter_count(config) - embeddings) + int(attention)


@dataclass(frozen=True)
class Weight:
    """One trained tensor of a model."""

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
        """Whether Muon updates it: a matrix that is neither embedding nor head (DeepSpeed's own rule)."""
        return len(self.shape) >= 2 and not any(word in self.name.lower() for word in ("embed", "lm_head"))

    @property
    def lookup(self) -> bool:
        """Whether tokens are looked up in it: it has a learning rate of its own, and so a group."""
        return self.name.endswith("embed_tokens.weight")


def weights_of(model: torch.nn.Module) -> list[Weight]:
    """The trained tensors of a model (one on the meta device will do), tied ones once."""
    return [Weight(name, tuple(p.shape)) for name, p in model.named_parameters() if p.requires_grad]
