"""Low-rank adapters (LoRA, Hu et al. 2021): train a small low-rank product next to each frozen matrix.

peft creates them. Only the adapters have gradients and optimizer state and are checkpointed; the frozen base
model is reloaded from its source. Exported models have the adapters merged into the matrices.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.stage import NonEmpty, StageConfig, unkeyed
from headwater.llm.hardware.precision import Precision, resolve_precision, torch_dtype
from headwater.llm.model.coverage import matrices
from headwater.llm.model.critic import without_head

if TYPE_CHECKING:
    import numpy as np
    import torch

ADAPTER = "default"
PREFIX = "base_model.model."
"""Prefix that peft adds to a model's parameter names."""
HEAD = "score"
"""What transformers calls the head of a sequence classifier."""


DEFAULT_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoraConfig(StageConfig):
    """Settings of the LoRA adapters."""

    rank: int = Field(16, ge=1)
    """Rank of the adapters. Higher ranks can learn more and cost more memory."""
    alpha: float = Field(32.0, gt=0)
    """Scaling factor: the adapter's product is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapters' inputs. Every worker draws its own: losses depend on the number of workers."""
    targets: tuple[NonEmpty, ...] = Field(DEFAULT_TARGETS, min_length=1)
    """Names of the matrices that get an adapter. Default: all of a layer's (Dettmers et al. 2023), as far as
    the model has them."""
    layers: int | None = Field(None, ge=1, exclude_if=unkeyed(None))
    """Adapters in the last so many layers alone. The backward pass ends at the first of them: a step with a
    third of the layers takes about two thirds of the time. Default: in all layers."""
    quantise: Literal["none", "nf4"] = "none"
    """`nf4` holds the frozen matrices in 4 bits (QLoRA, Dettmers et al. 2023); needs bitsandbytes."""


def quantisation(config: LoraConfig | None, precision: Precision, gpus: float = 0.0) -> Any:
    """The quantisation config for transformers; None loads the frozen model unquantised.

    Products with 4-bit matrices are computed in the training `precision`. Raises HeadwaterError if
    bitsandbytes is not installed.
    """
    if config is None or config.quantise == "none":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise HeadwaterError(
            "4-bit matrices need bitsandbytes, which is not installed",
            where="lora.quantise: nf4",
            fix="pip install 'headwater[qlora]', or `quantise: none`",
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch_dtype(resolve_precision(precision, gpus)),
    )


def missing_targets(model: Any, config: LoraConfig) -> list[str]:
    """Targets of which a model, adapted or not, has no layer."""
    paths = [f".{path}" for path, _ in model.named_modules()]
    return [name for name in config.targets if not any(path.endswith(f".{name}") for path in paths)]


def check_targets(model: Any, config: LoraConfig) -> None:
    """Raises HeadwaterError if a model lacks a matrix that the recipe names, or has fewer layers. Of the
    default names it may lack some."""
    if config.layers is not None and config.layers > (there := _layers(model)):
        raise HeadwaterError(
            f"the model has {there} layers", where="lora.layers", fix="choose fewer, or remove the setting"
        )
    if config.targets != DEFAULT_TARGETS and (missing := missing_targets(model, config)):
        raise HeadwaterError(
            f"the model ({model.config.model_type}) has no {', '.join(missing)}",
            where="lora.targets",
            fix=f"choose of {', '.join(sorted(matrices(model)))}",
        )


def _layers(model: Any) -> int:
    return int(model.config.get_text_config(decoder=True).num_hidden_layers)


def with_adapters(model: Any, config: LoraConfig, seed: int) -> Any:
    """A peft model around `model`, equal on every rank. The adapters' products start as zero: outputs are
    unchanged. The down matrices are uniform within 1 / sqrt(inputs), as peft's own (Kaiming, He et al. 2015).

    The head of a sequence classifier is trained as a whole. Raises HeadwaterError as `check_targets`, and
    when no matrix has one of the target names.
    """
    import peft
    import torch

    from headwater.llm.model.origins import Constant, Origin, Uniform

    check_targets(model, config)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # any number does
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        layers_to_transform=None if config.layers is None else list(range(_layers(model)))[-config.layers :],
        task_type=None if hasattr(model, HEAD) else "CAUSAL_LM",
    )
    for layer in model.modules():
        # bitsandbytes would repack 4-bit matrices in the first evaluation on a CPU with AVX-512; neither the
        # next training step nor merging can read that layout.
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    with torch.random.fork_rng(devices=[]):
        try:
            adapted = peft.get_peft_model(model, settings, adapter_name=ADAPTER)
        except ValueError as error:
            raise HeadwaterError(
                f"cannot add adapters to this model ({error})",
                where="lora.targets",
                fix="name matrices of this model, such as q_proj and v_proj",
            ) from error
    for name, parameter in adapted.named_parameters():
        if ".lora_" in name:
            inputs = parameter.shape[-1]
            origin: Origin = Uniform(seed, name, inputs**-0.5) if ".lora_A." in name else Constant(0.0)
            if parameter.is_meta:
                parameter.origin = origin  # type: ignore[attr-defined]
            else:
                origin.read(0, parameter.data.view(-1))
    if hasattr(model, HEAD):
        getattr(model, HEAD).requires_grad_(True)
    return adapted


def untouched_layers(module: Any) -> int:
    """Number of layers of an adapted model below all adapters, through which no gradient passes."""
    return min(module.peft_config[ADAPTER].layers_to_transform or [0])


def is_adapted(module: Any) -> bool:
    return hasattr(module, "peft_config")


def whole_weights(module: Any) -> dict[str, torch.Tensor]:
    """Parameters of a language model in fp32 under the base model's names, with adapters merged in.

    `module` must have whole parameters (`zero.gathered`); it is not modified.
    """
    if not is_adapted(module):
        plain = without_head(dict(module.named_parameters()))
        return {name: parameter.detach().float() for name, parameter in plain.items()}
    return {parameter.name: parameter.value() for parameter in merged(module)}


@dataclass(frozen=True)
class Merged:
    """A parameter of the base model, with what its adapter adds if it has one."""

    name: str
    base: Any
    up: Any = None
    down: Any = None
    scaling: float = 0.0

    def shape(self, whole_shape: Callable[[Any], tuple[int, ...]]) -> tuple[int, ...]:
        """Its shape; `whole_shape` gives that of a parameter, which may be partitioned."""
        state = getattr(self.base, "quant_state", None)
        return whole_shape(self.base) if state is None else tuple(state.shape)

    def parameters(self) -> list[torch.Tensor]:
        """What must be whole to compute its value."""
        return [self.base] if self.up is None else [self.base, self.up, self.down]

    def value(self) -> torch.Tensor:
        """In fp32."""
        value = _dequantised(self.base).detach().float()
        if self.up is None:
            return value
        return value + self.scaling * (self.up.detach().float() @ self.down.detach().float())


def merged(module: Any) -> list[Merged]:
    """The parameters of an adapted model under the base model's names."""
    added = {name: parts for name, *parts in _adapter_parts(module)}
    found = []
    for name, parameter in module.named_parameters():
        if ".lora_" not in name:
            layer = name.removesuffix(".weight").removesuffix(".base_layer")
            own = name.removeprefix(PREFIX).replace(".base_layer.", ".")
            found.append(Merged(own, parameter, *(added.get(layer, ()) if name.endswith(".weight") else ())))
    return found


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to its matrix: scaling × up @ down. Arrays are fp32."""

    up: np.ndarray
    down: np.ndarray
    scaling: float


@dataclass(frozen=True)
class Changes:
    """What training has changed in a model, by the base model's names: with its start, the whole model."""

    whole: dict[str, np.ndarray]
    """Trained parameters, in fp32."""
    low_rank: dict[str, LowRank] = field(default_factory=dict)
    frozen: str = ""
    """Number format in which the trained model holds the parameters that are not in `whole`; empty if all
    are."""


def changes(module: Any) -> Changes:
    """The changes of a model since its start: with adapters a hundredth of its weights.

    All parameters where there are no adapters, and where the frozen matrices are quantised: nobody else holds
    their values. `module` must have whole parameters.
    """
    if not is_adapted(module) or hasattr(module.get_base_model().config, "quantization_config"):
        return Changes({name: _array(parameter) for name, parameter in whole_weights(module).items()})
    whole = {
        name.removeprefix(PREFIX).replace(".base_layer.", "."): _array(parameter)
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and ".lora_" not in name
    }
    low_rank = {
        f"{name.removeprefix(PREFIX)}.weight": LowRank(_array(up), _array(down), scaling)
        for name, up, down, scaling in _adapter_parts(module)
    }
    frozen = next(p.dtype for p in module.parameters() if not p.requires_grad)
    return Changes(whole, low_rank, str(frozen).removeprefix("torch."))


def _adapter_parts(module: Any) -> Iterator[tuple[str, torch.Tensor, torch.Tensor, float]]:
    """Layer name, up and down matrix, scaling of every adapter."""
    from peft.tuners.lora import LoraLayer

    for name, layer in module.named_modules():
        if isinstance(layer, LoraLayer):
            parts: Any = layer
            up, down = parts.lora_B[ADAPTER].weight, parts.lora_A[ADAPTER].weight
            yield name, up, down, parts.scaling[ADAPTER]


def _array(parameter: torch.Tensor) -> np.ndarray:
    return parameter.detach().float().cpu().numpy().copy()


def save_merged(module: Any, folder: Path) -> None:
    """Save an adapted model as a plain Hugging Face folder, and the adapters alone (`save_adapter`)."""
    import torch

    base = module.get_base_model()
    config = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):  # the saved weights are not quantised
        del config.quantization_config
    with torch.device("meta"):
        plain = type(base)(config)
    plain.load_state_dict(whole_weights(module), strict=False, assign=True)
    plain.tie_weights()
    plain.save_pretrained(folder)
    save_adapter(module, folder)


def save_adapter(module: Any, folder: Path) -> None:
    """Save the adapters, which must be whole, in the folder's `adapter/`, with the head of a sequence
    classifier."""
    from peft import TaskType, get_peft_model_state_dict
    from safetensors.torch import save_file

    base = module.get_base_model()
    adapter = folder / "adapter"
    adapter.mkdir()
    settings = copy.deepcopy(module.peft_config[ADAPTER])
    tensors = get_peft_model_state_dict(module, adapter_name=ADAPTER)
    if hasattr(base, HEAD):
        settings.task_type, settings.modules_to_save = TaskType.SEQ_CLS, [HEAD]
        tensors |= {f"{PREFIX}{HEAD}.{name}": p for name, p in getattr(base, HEAD).named_parameters()}
    settings.save_pretrained(adapter)
    save_file(
        {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()},
        adapter / "adapter_model.safetensors",
    )


def _dequantised(parameter: Any) -> torch.Tensor:
    """The matrix as plain numbers, dequantised if needed."""
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return parameter  # type: ignore[no-any-return]
    from bitsandbytes.functional import dequantize_4bit  # type: ignore[import-untyped]

    return dequantize_4bit(parameter.data, state)  # type: ignore[no-any-return]
