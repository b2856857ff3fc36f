"""LoRA adapters as peft writes them: `adapter_config.json` and `adapter_model.safetensors` of one folder.

What a folder needs in order to act on a model is told by names and shapes, before a weight is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.llm.model.adapters import PREFIX
from headwater.llm.model.files.source import CONFIG
from headwater.llm.model.files.stored import TensorFile

SETTINGS, TENSORS = "adapter_config.json", "adapter_model.safetensors"
OTHER_KINDS = {
    "use_dora": False,
    "use_qalora": False,
    "lora_bias": False,
    "bias": "none",
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "layer_replication": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "alora_invocation_tokens": None,
}
"""peft's settings that ask for more than low-rank products beside matrices, and their value that does not."""
OWN_BASE = ("pissa", "olora", "loftq", "corda")
"""Ways to begin (`init_lora_weights`) that change the base's matrices, too."""
_PART = re.compile(r"(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True)
class LowRankShape:
    """What an adapter adds to one matrix: scaling × [outputs, rank] @ [rank, inputs]."""

    rank: int
    inputs: int
    outputs: int
    scaling: float


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter where it lies. `layers`: by the base model's module names."""

    location: str
    layers: Mapping[str, LowRankShape]

    def check_fits(self, base: str, matrices: Mapping[str, tuple[int, int]]) -> None:
        """Raises HeadwaterError, which names the first misfit, unless each layer is a matrix of the base.

        `matrices`: module → (outputs, inputs) of `linear_shapes`; `base`: the base's name, for the message.
        """
        for name, layer in self.layers.items():
            if name not in matrices:
                raise self._misfit(f"{base} has no matrix `{name}`")
            if matrices[name] != (layer.outputs, layer.inputs):
                own, its = f"{layer.outputs} × {layer.inputs}", "{} × {}".format(*matrices[name])
                raise self._misfit(f"it changes `{name}` as {own}, which is {its} in {base}")
            if layer.rank > min(layer.outputs, layer.inputs):
                raise self._misfit(
                    f"rank {layer.rank} of `{name}` exceeds the matrix's {min(matrices[name])}"
                )

    def _misfit(self, what: str) -> HeadwaterError:
        return HeadwaterError(
            f"the adapter does not fit its base: {what}",
            where=self.location,
            fix="name the model that it was trained on as its `base`",
        )


def is_adapter(location: str) -> bool:
    return Artifact(location).exists(SETTINGS)


def read_adapter(location: str) -> AdapterFolder:
    """What the folder's settings and the header of its tensors say.

    Raises HeadwaterError for files that are missing or wrong, and for kinds of adapters that do more than add
    a low-rank product to a matrix (DoRA, trained biases, whole modules, …), by the setting's name.
    """
    folder = Artifact(location)
    for name in (SETTINGS, TENSORS):
        if not folder.exists(name):
            raise HeadwaterError(
                f"the adapter has no {name}", where=location, fix="save it with peft's save_pretrained"
            )
    settings: dict[str, Any] = folder.read_json(SETTINGS)
    _check_kind(settings, location)
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, (_, shape, _) in TensorFile(folder.path(TENSORS)).tensors.items():
        found = _PART.fullmatch(name.removeprefix(PREFIX))
        if found is None:
            raise _fault(f"the tensor `{name}` is no part of a low-rank product", location)
        parts.setdefault(found[1], {})[found[2]] = shape
    if not parts:
        raise _fault("it has no tensors", location)
    return AdapterFolder(
        location, {name: _layer(name, each, settings, location) for name, each in parts.items()}
    )


def linear_shapes(folder: str) -> dict[str, tuple[int, int]]:
    """Module name → (outputs, inputs) of each linear layer of a Hugging Face folder's model, of which
    `config.json` alone is read."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    written = Artifact(folder).read_json(CONFIG)
    kind = str(written.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise HeadwaterError(f"transformers knows no model of type {kind}", where=f"{folder}/{CONFIG}")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind].from_dict(written))
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    }


def _check_kind(settings: Mapping[str, Any], location: str) -> None:
    if settings.get("peft_type") != "LORA":
        raise _fault(f"it is of the kind {settings.get('peft_type')}; LoRA alone is served", location)
    for name, plain in OTHER_KINDS.items():
        if (settings.get(name) or None) != (plain or None):
            raise _fault(f"`{name}: {settings[name]}` is more than low-rank products", location)
    begun = str(settings.get("init_lora_weights", True)).lower()
    if begun.startswith(OWN_BASE):
        raise _fault(f"`init_lora_weights: {begun}` has changed its base, too", location)


def _layer(
    name: str, parts: Mapping[str, tuple[int, ...]], settings: Mapping[str, Any], location: str
) -> LowRankShape:
    down, up = parts.get("A", ()), parts.get("B", ())
    if len(down) != 2 or len(up) != 2 or up[1] != down[0]:
        raise _fault(
            f"`{name}` has lora_A {list(down)} and lora_B {list(up)}, which are no product", location
        )
    rank = int(_of_pattern(settings.get("rank_pattern"), name, settings.get("r")))
    if rank != down[0]:
        raise _fault(f"`{name}` has rank {down[0]}, and the settings say {rank}", location)
    alpha = float(_of_pattern(settings.get("alpha_pattern"), name, settings.get("lora_alpha")))
    return LowRankShape(rank, down[1], up[0], alpha / (rank**0.5 if settings.get("use_rslora") else rank))


def _of_pattern(patterns: Any, name: str, default: Any) -> Any:
    """As peft: the value of the first pattern that the name ends with."""
    return next((v for key, v in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", name)), default)


def _fault(what: str, location: str) -> HeadwaterError:
    return HeadwaterError(
        f"the adapter cannot be served: {what}",
        where=location,
        fix="merge it into its base (peft's merge_and_unload), and serve that model",
    )
