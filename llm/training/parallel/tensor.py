"""Tensor parallelism (AutoTP): several workers share each layer, some heads and channels each.

DeepSpeed AutoTP splits the matrices of a layer as in Shoeybi et al. 2019 and does the exchange, over gloo on
CPUs and NCCL on GPUs. Embeddings, head and norms stay whole on every worker; the workers of a group compute
the same rows. This file says which matrices are split and how, gathers them, and checks the sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headwater.llm.model.architecture import of_config, with_feature
from headwater.llm.model.coverage import BY_COLUMNS, BY_ROWS
from headwater.llm.training.parallel import sharing
from headwater.llm.training.undocumented import deepspeed_internals as internals

if TYPE_CHECKING:
    import torch

    from headwater.llm.model.shape import Shape, Weight

ON_SHARED_HEADS = ("q_norm", "k_norm")
"""Whole on every worker but applied to its own heads: gradients are summed over the group."""


def settings(size: int) -> dict[str, Any]:
    """AutoTP's section of the DeepSpeed config; empty if no layer is shared."""
    if size == 1:
        return {}

    def weights(layers: tuple[str, ...]) -> list[str]:
        return [rf".*\.({'|'.join(layers)})\.weight$"]

    # DeepSpeed names the split after the transposed weight.
    specs = [
        {"patterns": weights(BY_ROWS), "partition_type": "column"},
        {"patterns": weights(BY_COLUMNS), "partition_type": "row"},
        {"patterns": weights(ON_SHARED_HEADS), "partition_type": "skip", "grad_allreduce": True},
        {"patterns": [".*"], "partition_type": "skip"},
    ]
    partition = {"use_default_specs": False, "layer_specs": specs}
    return {
        "tensor_parallel": {
            "autotp_size": size,
            "partition_config": partition,
            "vocab_parallel_lm_head": False,
        }
    }


def form_groups(size: int) -> Any:
    """The process groups for DeepSpeed; members are adjacent ranks."""
    return internals.form_tensor_parallel_groups(size)


def check(size: int, shape: Shape, *, optimizer: str, **sizes: Any) -> None:
    """Raises HeadwaterError if layers cannot be split over `size` workers (`sharing.check`)."""
    kv_heads = shape.num_key_value_heads
    own: dict[str, object] = {
        f"the matrices of {shape.model_type} are not split (take an `architecture` of "
        f"{with_feature('shares_layers')})": not of_config(shape).shares_layers,
        f"{kv_heads} key/value heads cannot be split evenly": kv_heads % size,
        f"{shape.intermediate_size} channels cannot be split evenly": shape.intermediate_size % size,
        "Muon needs whole matrices (`optimizer: adamw`)": optimizer == "muon",
    }
    sharing.check("tensor_parallel", size, shape, own, **sizes)


def dim_of(name: str) -> int | None:
    """The dimension along which a parameter is split; None if every worker has it whole."""
    layer = name.removesuffix(".weight").rpartition(".")[2]
    return 0 if layer in BY_ROWS else 1 if layer in BY_COLUMNS else None


def cut(weights: Sequence[Weight], size: int) -> list[Weight]:
    """One worker's part of the weights."""
    dims = [(weight, dim_of(weight.name)) for weight in weights]
    return [
        weight
        if dim is None
        else replace(weight, shape=tuple(n // size if d == dim else n for d, n in enumerate(weight.shape)))
        for weight, dim in dims
    ]


def rank_and_size(engine: Any) -> tuple[int, int]:
    """This worker's rank in its group, and the group's size."""
    return internals.tensor_parallel(engine)


def whole_weights(engine: Any, module: Any) -> dict[str, torch.Tensor] | None:
    """The state dict of a module, gathered from its group's parts; all ranks must call it.

    None if no layer is shared: the module itself is whole.
    """
    import torch
    import torch.distributed as dist

    _, size = rank_and_size(engine)
    if size == 1:
        return None
    whole = {}
    for name, values in module.state_dict().items():
        dim = dim_of(name)
        if dim is not None:
            parts = [torch.empty_like(values) for _ in range(size)]
            dist.all_gather(parts, values.contiguous(), group=internals.tensor_parallel_group())
            values = torch.cat(parts, dim)
        whole[name] = values
    return whole
