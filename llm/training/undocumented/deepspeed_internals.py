"""Everything that we rely on in DeepSpeed and that its documentation does not promise, one function each.

No other file reaches into an engine, but `deepspeed_starts.py` when one is built. `relies_on` says what a
function reads, as it was in the version `reliances.READ_IN`.
`tests/llm/training/undocumented/test_deepspeed_internals.py` opens an engine at every ZeRO stage and checks
each of them.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from headwater.llm.training.undocumented.reliances import relies_on


@relies_on("engine.param_names", breaks="checkpoints, exports and moving averages")
def name_of(engine: Any, parameter: Any) -> str:
    """A trained parameter's name in the model, also where it is partitioned."""
    return str(engine.param_names[parameter])


@relies_on("engine.seq_data_parallel_group", breaks="checkpoints")
def sharding_group(engine: Any) -> Any:
    """The process group whose ranks shard the same training state."""
    return engine.seq_data_parallel_group


@relies_on("engine.data_parallel_group", "engine.autotp_size", breaks="limits on waiting for other ranks")
def own_groups(engine: Any) -> list[Any]:
    """The process groups that DeepSpeed has made itself."""
    found = [engine.data_parallel_group]
    return found if engine.autotp_size() <= 1 else [*found, engine.mpu.get_tensor_model_parallel_group()]


@relies_on("engine.zero_reduce_scatter", breaks="right gradients of rows shared by workers at ZeRO 3")
def scatters_gradients(engine: Any) -> bool:
    """Whether each rank gets its part of the gradients alone."""
    return bool(engine.zero_reduce_scatter())


@relies_on(
    "engine.autotp_size",
    "groups.get_tensor_model_parallel_rank",
    breaks="layers shared by workers",
)
def tensor_parallel(engine: Any) -> tuple[int, int]:
    """This worker's rank among those that share each layer, and their number."""
    from deepspeed.utils import groups

    size = int(engine.autotp_size())
    return (int(groups.get_tensor_model_parallel_rank()), size) if size > 1 else (0, 1)


@relies_on("groups.get_tensor_model_parallel_group", breaks="exports of layers that workers share")
def tensor_parallel_group() -> Any:
    from deepspeed.utils import groups

    return groups.get_tensor_model_parallel_group()


@relies_on("groups._init_tp_mesh_device", breaks="layers shared by workers")
def form_tensor_parallel_groups(size: int) -> Any:
    """The `mpu` for `deepspeed.initialize`; members of a group are adjacent ranks."""
    from deepspeed.utils import groups

    groups._init_tp_mesh_device(size)
    return groups


@relies_on("ops.__compatible_ops__", "ops._probe_compatible_ops", breaks="CPU workers without a compiler")
def reduce_through_gloo() -> None:
    """Switch off DeepSpeed's reduction in shared memory, which needs a compiler at first use and works on one
    host only; gloo has neither limit.

    DeepSpeed fills its table of kernels at the first look into it, by running compilers (0.5 s per worker).
    This reduction alone looks there, so that a table with its entry is enough.
    """
    import deepspeed

    if "__compatible_ops__" not in vars(deepspeed.ops) and deepspeed.ops._probe_compatible_ops:
        deepspeed.ops.__compatible_ops__ = {}
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


@relies_on("optimizer.overflow", breaks="refusals of updates that are not finite")
def refuses_bad_gradients(engine: Any) -> bool:
    """Whether the optimizer is DeepSpeed's own, which makes no update from gradients that are not finite."""
    return engine.zero_optimization_stage() > 0 or hasattr(engine.optimizer, "overflow")


@relies_on("optimizer.step", breaks="refusals of updates that are not finite at ZeRO 0", stages=(0,))
def step_without_update(engine: Any) -> None:
    """`engine.step()` that counts and clears the gradients; the engine calls the optimizer's own `step`."""
    step = engine.optimizer.step
    engine.optimizer.step = lambda: None
    try:
        engine.step()
    finally:
        engine.optimizer.step = step


@relies_on("optimizer.optimizer", breaks="moments in checkpoints")
def inner_optimizer(engine: Any) -> Any:
    """The torch optimizer, unwrapped from DeepSpeed's if there is one."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


@relies_on("optimizer.fp32_groups", breaks="first steps of Adam in 16 bits at ZeRO 0", stages=(0,))
def forget_step_of_zeros(engine: Any) -> None:
    """ZeRO 0 in 16 bits: DeepSpeed has made a step of zeros, which Adam's bias correction would count."""
    if hasattr(engine.optimizer, "fp32_groups"):
        inner_optimizer(engine).state.clear()


@relies_on("optimizer.loss_scaler", breaks="loss scales of fp16 in checkpoints", stages=(1, 2, 3))
def loss_scale(engine: Any) -> dict[str, Any]:
    """The attributes of the fp16 loss scaler, which may be set; unused in other precisions."""
    names = ("loss_scaler", "loss_scale_config")  # the second without ZeRO
    return next((vars(getattr(engine.optimizer, n)) for n in names if hasattr(engine.optimizer, n)), {})


def uses_muon(holder: Any) -> bool:
    """Whether Muon trains a parameter, or an optimizer's group of parameters. DeepSpeed documents the mark
    `use_muon` of both."""
    return bool(holder.get("use_muon") if isinstance(holder, dict) else getattr(holder, "use_muon", False))


@relies_on("optimizer.muon_beta", breaks="schedules of Muon's momentum at ZeRO 3", stages=())
def set_momentum_of_stage_3(engine: Any, momentum: float) -> None:
    """ZeRO 3 reads the momentum of the groups once, when the engine is built."""
    _ = engine.optimizer.muon_beta
    engine.optimizer.muon_beta = momentum


@relies_on(
    "optimizer.fp16_groups", "optimizer.fp32_groups", breaks="checkpoints in 16 bits at ZeRO 0", stages=(0,)
)
def replicated(engine: Any) -> list[tuple[Any, Any]]:
    """ZeRO 0: each trained parameter with its fp32 weights, in 16 bits a copy, else the parameter itself."""
    optimizer = engine.optimizer
    if not refuses_bad_gradients(engine):  # torch's
        return [(p, p) for group in optimizer.param_groups for p in group["params"]]
    return list(
        zip(itertools.chain(*optimizer.fp16_groups), itertools.chain(*optimizer.fp32_groups), strict=True)
    )


class FlatGroup(NamedTuple):
    """ZeRO 1 and 2: parameters laid end to end in one vector, of which a rank holds one stretch."""

    parameters: list[Any]
    flat: Any
    """The stretch in fp32; what the inner optimizer trains."""
    touched: list[Any]
    """Parameters of which the stretch has elements."""


@relies_on(
    "optimizer.bit16_groups",
    "optimizer.single_partition_of_fp32_groups",
    "optimizer.params_in_partition",
    breaks="checkpoints, exports and moving averages at ZeRO 1 and 2",
    stages=(1, 2),
)
def flat_groups(engine: Any) -> list[FlatGroup]:
    optimizer = engine.optimizer
    return [
        FlatGroup(list(group), optimizer.single_partition_of_fp32_groups[index], found)
        for index, (group, found) in enumerate(
            zip(optimizer.bit16_groups, optimizer.params_in_partition, strict=True)
        )
    ]


class Fragment(NamedTuple):
    """Elements of a parameter in this rank's stretch of its flat group."""

    in_parameter: int
    in_stretch: int
    size: int


@relies_on(
    "parameter._hp_mapping",
    "parameter._hp_mapping.lp_fragment_address",
    "parameter._hp_mapping.hp_fragment_address",
    breaks="checkpoints, exports and moving averages at ZeRO 1 and 2",
    stages=(1, 2),
)
def fragment(parameter: Any) -> Fragment | None:
    """None if the stretch has nothing of the parameter."""
    if parameter._hp_mapping is None:
        return None
    here, there = parameter._hp_mapping.lp_fragment_address, parameter._hp_mapping.hp_fragment_address
    return Fragment(here.start, there.start, there.numel)


@relies_on("optimizer.cpu_offload", breaks="checkpoints of Muon at ZeRO 1 and 2", stages=(1, 2))
def whole_momenta(engine: Any) -> bool:
    """ZeRO 1 and 2: whether Muon's momentum is kept for whole matrices, one after another."""
    return not engine.optimizer.cpu_offload


@relies_on("optimizer.update_lp_params", breaks="restored weights at ZeRO 1 and 2", stages=(1, 2))
def copy_weights_to_model(engine: Any) -> None:
    """ZeRO 1 and 2: the model's parameters from all ranks' fp32 weights; all ranks must call it."""
    engine.optimizer.update_lp_params()


@relies_on(
    "optimizer.fp16_groups",
    "optimizer.fp32_partitioned_groups_flat",
    breaks="checkpoints, exports and moving averages at ZeRO 3",
    stages=(3,),
)
def partitioned_groups(engine: Any) -> list[list[Any]]:
    """ZeRO 3: the parameters of each group; `partitioned_weights` has the group's fp32 weights."""
    return [list(group) for group in engine.optimizer.fp16_groups]


@contextlib.contextmanager
def partitioned_weights(engine: Any, group: int) -> Iterator[Any]:
    """ZeRO 3: this rank's fp32 weights of a group, its parameters' parts end to end. Weights and optimizer
    state that lie on a disk (`zero.offload_optimizer: nvme`) are in memory within the block."""
    away, optimizer = _swapped_out(engine, group), engine.optimizer
    if away:
        optimizer._optimizer_states_and_gradient_swap_in(group)
    yield optimizer.fp32_partitioned_groups_flat[group]
    if away:
        optimizer._optimizer_states_and_gradient_swap_out(group)


@relies_on(
    "optimizer._swappable_optimizer_subgroup",
    "optimizer._optimizer_states_and_gradient_swap_in",
    "optimizer._optimizer_states_and_gradient_swap_out",
    breaks="checkpoints of an optimizer on NVMe",
    stages=(3,),
)
def _swapped_out(engine: Any, group: int) -> bool:
    return bool(engine.optimizer._swappable_optimizer_subgroup(group))


@relies_on(
    "optimizer.persistent_parameters",
    "optimizer.invalidate_secondary_tensor",
    "parameter.ds_status",
    "parameter.partition",
    breaks="restored weights with `zero.persist_below` or `zero.hpz_partition_size`",
    stages=(3,),
)
def forget_gathered(engine: Any) -> None:
    """ZeRO 3: drop what was gathered before the parts changed: whole parameters, and second copies (hpZ)."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    whole = [p for p in engine.optimizer.persistent_parameters if p.ds_status == ZeroParamStatus.AVAILABLE]
    if whole:
        whole[0].partition(param_list=whole, has_been_updated=False)
    engine.optimizer.invalidate_secondary_tensor()


@relies_on("optimizer.swap_optimizer", breaks="exports of a model whose optimizer is on NVMe", stages=(3,))
def weights_on_disk(engine: Any) -> bool:
    """Whether fp32 weights and optimizer state lie on a disk."""
    return engine.zero_optimization_stage() == 3 and bool(engine.optimizer.swap_optimizer)


@relies_on("optimizer.averaged_gradients", breaks="counts of memory", stages=(1, 2, 3))
def held_gradients(engine: Any) -> list[Any]:
    """The gradients that an engine keeps between micro-batches; some are None."""
    optimizer, stage = engine.optimizer, engine.zero_optimization_stage()
    found: list[Any] = []
    for parameter in engine.module.parameters():
        found += [parameter.grad, getattr(parameter, "grad_accum", None)]
    kept = [optimizer.averaged_gradients] if stage else []
    kept += [optimizer.all_grad_tensors] if stage in (1, 2) else []
    for gradients in itertools.chain(*(by_group.values() for by_group in kept)):
        found += gradients if gradients is not None else ()
    found += [optimizer.grad_partitions_flat_buffer] if stage == 3 else []
    return found + [copy.grad for copy in fp32_copies(engine)]


def fp32_copies(engine: Any) -> list[Any]:
    """This rank's fp32 weights apart from the model's parameters."""
    stage = engine.zero_optimization_stage()
    if stage == 0:
        return [weights for parameter, weights in replicated(engine) if weights is not parameter]
    if stage < 3:
        return [group.flat for group in flat_groups(engine)]
    return list(engine.optimizer.fp32_partitioned_groups_flat)


def whole_shape(parameter: Any) -> tuple[int, ...]:
    """A parameter's shape, also where it is partitioned. Relies on `ds_shape`."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def whole_size(parameter: Any) -> int:
    """A parameter's elements, also where it is partitioned. Relies on `ds_numel`."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


class Part(NamedTuple):
    """This rank's part of a partitioned parameter."""

    start: int
    """Its first element in the parameter."""
    size: int
    """Elements with the padding of the last parts."""
    inside: int
    """Elements without; 0 or less if it is all padding."""
    values: Any
    """Flat, in the model's precision, with the padding."""


@relies_on(
    "parameter.partition_numel",
    "parameter.ds_zero_partition_rank",
    "parameter.ds_shape",
    "parameter.ds_numel",
    "parameter.ds_tensor",
    breaks="starts, checkpoints and exports at ZeRO 3",
    stages=(3,),
)
def part(parameter: Any) -> Part:
    size = int(parameter.partition_numel())
    start = size * int(parameter.ds_zero_partition_rank)
    inside = min(size, int(parameter.ds_numel) - start)
    return Part(start, size, inside, parameter.ds_tensor.data.view(-1))


def part_values(parameter: Any) -> Any:
    """What `ds_tensor` holds; None if the parameter is not partitioned."""
    return getattr(parameter, "ds_tensor", None)
