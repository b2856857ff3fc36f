"""Which architectures a feature covers, so that a run can say so before it starts."""

from __future__ import annotations

from typing import Any

from headwater.cluster.errors import HeadwaterError
from headwater.llm.model.files.gguf import ARCHITECTURES, has_windows

KERNELS = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose attention and norm `cpu_kernels` compute."""
BY_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
"""Linear layers that AutoTP splits by outputs: each worker has some rows of the weight."""
BY_COLUMNS = ("o_proj", "down_proj")
"""Linear layers split by inputs: each worker has some columns; outputs are summed over the group."""


def uncovered(model: Any) -> list[str]:
    """What a causal model of transformers cannot use, one sentence each. It may be on the meta device."""
    name, kind = type(model).__name__, model.config.model_type
    found = []
    if name not in ARCHITECTURES:
        found.append(f"export to GGUF knows {', '.join(ARCHITECTURES)}, not {name} (`--format hf` works)")
    elif has_windows(model.config.to_dict()):
        found.append(f"export to GGUF: llama.cpp's {name} has no sliding windows (`--format hf` works)")
    if fault := tensor_fault(model):
        found.append(f"tensor_parallel: {fault}")
    if not {*BY_ROWS, *BY_COLUMNS} & matrices(model).keys():
        found.append("lora with its default `targets`: name some of " + ", ".join(sorted(matrices(model))))
    if kind not in KERNELS:
        found.append(f"the CPU kernels: {kind} trains with torch's own, which are slower")
    return found


def tensor_fault(model: Any) -> str:
    """Why AutoTP's rules do not fit this model; empty if they do."""
    linear = matrices(model)
    missing = [name for name in (*BY_ROWS, *BY_COLUMNS) if name not in linear]
    if missing:
        return f"{type(model).__name__} has no layers {', '.join(missing)}"
    biased = [name for name in (*BY_ROWS, *BY_COLUMNS) if linear[name].bias is not None]
    return f"the biases of {', '.join(biased)} cannot be split" if biased else ""


def check_tensor_parallel(model: Any) -> None:
    """Raises HeadwaterError if the model's layers cannot be shared between workers."""
    if fault := tensor_fault(model):
        raise HeadwaterError(
            fault, where="tensor_parallel", fix="remove the setting; `zero: {stage: 3}` shards"
        )


def matrices(model: Any) -> dict[str, Any]:
    """Linear layers by the last part of their name, one of each."""
    return {
        path.rpartition(".")[2]: layer
        for path, layer in model.named_modules()
        if hasattr(layer, "weight") and hasattr(layer, "bias") and layer.weight.ndim == 2
    }
