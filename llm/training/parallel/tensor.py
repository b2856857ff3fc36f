"""Layers too wide for one worker: a few workers share each, some heads and channels a worker.

DeepSpeed AutoTP cuts the matrices of a layer as Shoeybi et al. 2019 do and exchanges what it must, over gloo
on CPUs as over NCCL on GPUs; embeddings, head and norms stay whole on every worker. The workers of a group
compute the same rows.
Here is which matrices are cut and how, how they are put together, and what must hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headwater.llm.training.parallel import sharing

if TYPE_CHECKING:
    import torch

    from headwater.llm.model.shape import Shape, Weight

BY_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
"""Linear layers of which a worker has some outputs: rows of the weight."""
BY_COLUMNS = ("o_proj", "down_proj")
"""Of which it has some inputs: columns. Their outputs are summed over the group."""
ON_SHARED_HEADS = ("q_norm", "k_norm")
"""Whole on every worker, but used for its own heads: their gradients are summed over the group."""


def settings(size: int) -> dict[str, Any]:
    """AutoTP's section of DeepSpeed's configuration; nothing where no layer is shared."""
    if size == 1:
        return {}

    def weights(layers: tuple[str, ...]) -> list[str]:
        return [rf".*\.({'|'.join(layers)})\.weight$"]

    # DeepSpeed names the cut after the transposed weight.
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
    """What DeepSpeed has to know of the groups, which are neighbours in rank."""
    from deepspeed.utils import groups

    groups._init_tp_mesh_device(size)
    return groups


def check(size: int, shape: Shape, *, optimizer: str, **sizes: Any) -> None:
    """Raises HeadwaterError for layers that cannot be shared out among `size` workers (`sharing.check`)."""
    own = {
        f"{shape.num_key_value_heads} key/value heads cannot be shared out": shape.num_key_value_heads % size,
        f"{shape.intermediate_size} channels cannot be shared out": shape.intermediate_size % size,
        "Muon needs whole matrices (`optimizer: adamw`)": optimizer == "muon",
    }
    sharing.check("tensor_parallel", size, shape, own, **sizes)


def dim_of(name: str) -> int | None:
    """Along which dimension a parameter is cut; None for one that every worker has whole."""
    layer = name.removesuffix(".weight").rpartition(".")[2]
    return 0 if layer in BY_ROWS else 1 if layer in BY_COLUMNS else None


def cut(weights: Sequence[Weight], size: int) -> list[Weight]:
    """What a worker has of them."""
    dims = [(weight, dim_of(weight.name)) for weight in weights]
    return [
        weight
        if dim is None
        else replace(weight, shape=tuple(n // size if d == dim else n for d, n in enumerate(weight.shape)))
        for weight, dim in dims
    ]


def rank_and_size(engine: Any) -> tuple[int, int]:
    """This worker's place in its group, and how many share a layer."""
    if engine.autotp_size() <= 1:
        return 0, 1
    from deepspeed.utils import groups

    return groups.get_tensor_model_parallel_rank(), engine.autotp_size()


def whole_weights(engine: Any, module: Any) -> dict[str, torch.Tensor] | None:
    """The state of a module put together from its group's parts; all ranks must call it.

    None where no layer is shared: the module itself has all of it.
    """
    import torch
    import torch.distributed as dist

    _, size = rank_and_size(engine)
    if size == 1:
        return None
    from deepspeed.utils import groups

    whole = {}
    for name, values in module.state_dict().items():
        dim = dim_of(name)
        if dim is not None:
            parts = [torch.empty_like(values) for _ in range(size)]
            dist.all_gather(parts, values.contiguous(), group=groups.get_tensor_model_parallel_group())
            values = torch.cat(parts, dim)
        whole[name] = values
    return whole
