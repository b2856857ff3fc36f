"""The start of a model's weights: each worker gets memory for its share, and makes what it keeps.

A model without values (`llm/model/origins.py`) becomes an engine in two steps. `give_memory` runs before
DeepSpeed and leaves values undefined: at ZeRO 3 a parameter is one worker's partition, else it is whole.
`fill` runs afterwards and writes the fp32 elements that this worker has, from where they come. Weights are
therefore the same for every number of workers, ZeRO stage and precision. A checkpoint takes the place of
`fill` for what is trained.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from headwater.llm.training import zero
from headwater.llm.training.config import TrainConfig
from headwater.llm.training.state import elements
from headwater.llm.training.undocumented import deepspeed_internals as internals
from headwater.llm.training.undocumented import deepspeed_starts as starts

if TYPE_CHECKING:
    import torch

    from headwater.llm.model.origins import Origin


def give_memory(
    model: torch.nn.Module, settings: dict[str, Any], config: TrainConfig, dtype: torch.dtype, groups: Any
) -> dict[str, Origin]:
    """Give the parameters on the meta device memory; returns where their values come from.

    At ZeRO 3 all parameters are partitioned afterwards, as DeepSpeed does it. All ranks must call it.
    """
    import torch

    from headwater.llm.model import origins

    found = origins.origins(model)
    if not found:
        return {}
    if config.zero.offload_parameters == "nvme":  # DeepSpeed writes partitions to the disk at once
        origins.filled(model, dtype)
        return {}
    if (
        config.zero.stage < 3 or config.tensor_parallel_size() > 1
    ):  # DeepSpeed splits layers of whole parameters
        origins.give_memory(model, lambda parameter: torch.empty(parameter.shape, dtype=dtype))
        return found
    zero.start(config.gpus_per_worker)
    for parameter in model.parameters():
        if not parameter.is_meta:  # adapters and new heads
            parameter.data = parameter.data.to(dtype)
    remote = config.zero.offload_parameters
    starts.partition_without_values(
        model,
        settings,
        None if remote == "none" else remote,
        dtype,
        groups,
        functools.partial(origins.give_memory, model),
    )
    return found


def fill(engine: Any, *, trained: bool = True) -> None:
    """Write the elements of this worker; all ranks must call it. Frozen weights alone if not `trained`."""
    import torch

    sources, engine.origins = engine.origins, {}
    if not sources:
        return
    with torch.no_grad():
        for run in elements.runs(engine) if trained else ():
            if elements.WEIGHTS in run.values:
                weights = run.values[elements.WEIGHTS].detach()
                if run.parameter in sources:
                    _read(sources[run.parameter], run.place, weights)
                    elements.to_model(run)
                if elements.AVERAGE in run.values:
                    run.values[elements.AVERAGE].copy_(weights)
        if trained:
            elements.spread_weights(engine)
        for name, parameter in engine.module.named_parameters():
            if name in sources and not parameter.requires_grad:
                _read_frozen(engine, sources[name], parameter)


def _read_frozen(engine: Any, origin: Origin, parameter: Any) -> None:
    if engine.zero_optimization_stage() < 3:
        origin.read(0, parameter.data.view(-1))
        return
    part = internals.part(parameter)
    if part.inside > 0:
        origin.read(part.start, part.values[: part.inside])


def _read(origin: Origin, place: elements.Place, into: torch.Tensor) -> None:
    """The elements at a place, from an origin of the whole parameter."""
    end = max(block.row + block.rows for block in place.blocks(into.numel(), place.columns or into.numel()))
    length = end * place.columns if place.columns else place.start + into.numel()
    elements.copy_overlap(origin.read, length, elements.Place(0), into, place)
