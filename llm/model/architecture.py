"""The architectures that a fresh model may have: transformers' own classes, and what differs between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Name = Literal["qwen3", "llama", "gemma2", "gemma3", "nanochat"]
NAMES: tuple[Name, ...] = get_args(Name)


@dataclass(frozen=True)
class Architecture:
    """What parameters, FLOPs, initial values and other features depend on. The test compares it with
    transformers' models."""

    model_type: str
    """transformers' name."""
    layer_norms: int = 2
    """Norms of a layer with a gain for each channel of the model."""
    last_norm: bool = True
    """Whether the norm before the head has gains."""
    head_norms: bool = False
    """Whether queries and keys have norms with a gain for each channel of a head."""
    gain: float = 1.0
    """Initial value of a norm's gains; Gemma adds 1 to them."""
    mlp_matrices: int = 3
    """3 if a gate multiplies the hidden values (SwiGLU, GeGLU), else 2."""
    mlp_ratio: float = 3.0
    """Default width of the feed-forward layer, relative to the model's."""
    windows: bool = False
    """Whether layers may attend to a sliding window."""
    softcap: float | None = None
    """Default cap of the logits; 0 is none, None if it cannot have one."""
    shares_rows: bool = False
    """Whether sequence parallelism is tested with its attention."""
    shares_layers: bool = False
    """Whether tensor parallelism is tested with its matrices (`coverage.tensor_fault`)."""
    scores: bool = True
    """Whether transformers makes a sequence classifier of it, which reward models are."""

    @property
    def matrices(self) -> tuple[str, ...]:
        """Names of a layer's matrices."""
        mlp = ("gate_proj", "up_proj", "down_proj") if self.mlp_matrices == 3 else ("fc1", "fc2")
        return ("q_proj", "k_proj", "v_proj", "o_proj", *mlp)


ARCHITECTURES: dict[Name, Architecture] = {
    "qwen3": Architecture("qwen3", head_norms=True, windows=True, shares_rows=True, shares_layers=True),
    "llama": Architecture("llama", shares_layers=True),
    "gemma2": Architecture("gemma2", layer_norms=4, gain=0.0, windows=True, softcap=30.0),
    "gemma3": Architecture(
        "gemma3_text", layer_norms=4, head_norms=True, gain=0.0, windows=True, softcap=0.0
    ),
    "nanochat": Architecture(
        "nanochat",
        layer_norms=0,
        last_norm=False,
        mlp_matrices=2,
        mlp_ratio=4.0,
        softcap=15.0,
        scores=False,
    ),
}


def with_feature(feature: str) -> str:
    """The architectures with a feature, for messages."""
    has = {name: getattr(each, feature) for name, each in ARCHITECTURES.items()}
    return ", ".join(name for name, value in has.items() if value is not None and value is not False)


def of_config(config: Any) -> Architecture:
    """The architecture of a transformers config. Other models count as Llama, which they resemble most."""
    kind = getattr(config, "model_type", "")
    return next((each for each in ARCHITECTURES.values() if each.model_type == kind), ARCHITECTURES["llama"])
