"""What building an engine relies on in DeepSpeed beyond its documentation: as in `deepspeed_internals.py`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from headwater.llm.training.undocumented.reliances import relies_on

if TYPE_CHECKING:
    import torch


@relies_on(
    "Init._convert_to_deepspeed_param",
    "Init._convert_to_zero_parameters",
    "Init._aligned_size",
    "Init._partition_world_size",
    "Init._partition_rank",
    "partition_parameters.PartitionedParamStatus",
    "partition_parameters.free_param",
    breaks="starts at ZeRO 3",
    stages=(3,),
)
def partition_without_values(
    model: torch.nn.Module,
    settings: dict[str, Any],
    remote: str | None,
    dtype: torch.dtype,
    groups: Any,
    replace: Callable[[Callable[[torch.Tensor], torch.Tensor]], Iterable[Any]],
) -> None:
    """Partition a model's parameters as `deepspeed.zero.Init` does; what has no values gets undefined ones.

    `replace` takes a function that makes a parameter's placeholder, and yields the parameters that it has put
    in the place of those without values. All ranks must call it.
    """
    import deepspeed
    import torch
    from deepspeed.accelerator import get_accelerator
    from deepspeed.runtime.zero import partition_parameters

    maker = deepspeed.zero.Init(
        module=torch.nn.Module(),  # has no parameters yet: only switches on DeepSpeed's linear layers
        config_dict_or_path=settings,
        remote_device=remote,
        dtype=dtype,
        mpu=groups,
    )
    one = torch.empty(1, dtype=dtype, device=maker.local_device)
    for parameter in replace(lambda parameter: one.expand(parameter.shape)):
        maker._convert_to_deepspeed_param(parameter)
        size = maker._aligned_size(parameter) // maker._partition_world_size(parameter)
        own: Any = torch.empty(size, dtype=dtype, device=maker.remote_device)
        own = get_accelerator().pin_memory(own) if maker.pin_memory else own  # nothing on CPU workers
        own[max(0, parameter.ds_numel - size * maker._partition_rank(parameter)) :] = 0  # padding
        own.ds_numel, own.final_location = size, None
        own.status = partition_parameters.PartitionedParamStatus.AVAILABLE
        parameter.ds_tensor, parameter.ds_numel_aligned = own, maker._aligned_size(parameter)
        partition_parameters.free_param(parameter)
    maker._convert_to_zero_parameters(model.parameters())
    for buffer in model.buffers():
        buffer.data = buffer.data.to(maker.local_device)


@relies_on(
    "Stage3.create_reduce_and_remove_grad_hooks",
    "parameter.all_gather",
    "parameter.partition",
    breaks="low peaks of memory when an engine is built at ZeRO 3",
    stages=(3,),
)
def register_hooks_without_gathering() -> None:
    """ZeRO 3: DeepSpeed gathers each parameter to register the hook of its gradient, which needs no values.
    With this, engines that are built later do not. May be called again."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3 as Stage3

    usual = Stage3.create_reduce_and_remove_grad_hooks
    if usual.__module__ == __name__:
        return

    @functools.wraps(usual, assigned=())
    def create(optimizer: Any) -> None:
        parted = [
            (parameter, parameter.all_gather, parameter.partition)
            for parameter in itertools.chain(*optimizer.fp16_groups)
            if parameter.ds_status == ZeroParamStatus.NOT_AVAILABLE
        ]
        for parameter, *_ in parted:
            parameter.all_gather = parameter.partition = _nothing
        try:
            usual(optimizer)
        finally:
            for parameter, all_gather, partition in parted:
                parameter.all_gather, parameter.partition = all_gather, partition

    Stage3.create_reduce_and_remove_grad_hooks = create


@relies_on(
    "Stage3._create_fp32_partitions",
    "optimizer.device",
    "optimizer.offload_param",
    breaks="training in fp32 at ZeRO 3 without a second copy of the weights",
    stages=(3,),
)
def train_fp32_weights_in_place() -> None:
    """ZeRO 3 in fp32: the optimizer trains the model's own partitions. DeepSpeed means to do so if they lie
    on the engine's device, but compares that device with its name, which are never equal, and copies them.
    For engines that are built later; may be called again."""
    import torch
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3 as Stage3

    usual = Stage3._create_fp32_partitions
    if usual.__module__ == __name__:
        return

    @functools.wraps(usual, assigned=())
    def create(optimizer: Any) -> None:
        name = optimizer.device
        if not (optimizer.offload_optimizer or optimizer.offload_param):
            optimizer.device = torch.device(name)
        try:
            usual(optimizer)
        finally:
            optimizer.device = name

    Stage3._create_fp32_partitions = create


def _nothing() -> None:
    pass
