"""DeepSpeed ZeRO: build an engine from settings; gather its weights.

The same code runs on CPU workers over gloo and on GPUs over NCCL; only settings differ.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from headwater.llm.training.config import TrainConfig
from headwater.llm.training.undocumented import deepspeed_internals as internals
from headwater.llm.training.undocumented import deepspeed_starts as starts
from headwater.llm.training.zero_config import Device

if TYPE_CHECKING:
    import torch

EMBEDDINGS = "embeddings"
"""Name of the optimizer group of the input embeddings."""


def deepspeed_config(config: TrainConfig, precision: str, world_size: int) -> dict[str, Any]:
    """The config for `deepspeed.initialize`."""
    zero, fp16, accumulation = config.zero, config.fp16, config.accumulation(world_size)
    groups = world_size // config.workers_per_row()
    stage: dict[str, Any] = {
        "stage": zero.stage,
        "reduce_bucket_size": zero.bucket_elements,
        "allgather_bucket_size": zero.bucket_elements,
        "contiguous_gradients": True,
        "overlap_comm": zero.overlaps(config.gpus_per_worker),
        "stage3_prefetch_bucket_size": zero.prefetch_elements,
        "stage3_param_persistence_threshold": zero.persist_below,
        "zero_hpz_partition_size": zero.hpz_partition_size,
        "zero_quantized_weights": zero.quantised_weights,
        "zero_quantized_gradients": zero.quantised_gradients,
    }
    if zero.offload_optimizer != "none":
        stage["offload_optimizer"] = _offload(zero.offload_optimizer, zero.nvme_path)
    if zero.offload_parameters != "none":
        stage["offload_param"] = _offload(zero.offload_parameters, zero.nvme_path)
    gradients = zero.gradient_types(precision, config.optimizer)
    return {
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": config.micro_batch * accumulation * groups,
        "gradient_clipping": config.clip if config.optimizer == "adamw" else 0.0,
        "zero_optimization": stage | zero.extra,
        "data_types": {"grad_accum_dtype": gradients.kept},
        "communication_data_type": gradients.sent,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {
            "enabled": precision == "fp16",
            "loss_scale": fp16.loss_scale,
            "initial_scale_power": fp16.initial_scale_power,
            "loss_scale_window": fp16.scale_window,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }


def _offload(device: Device, nvme_path: str) -> dict[str, Any]:
    return {"device": device} | ({"nvme_path": nvme_path} if device == "nvme" else {})


def start(gpus: float = 0.0) -> None:
    """Make DeepSpeed join the process group. `gpus` is the number reserved per worker: without any, the
    host's GPUs may be visible but must not be used."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if gpus else "cpu")
    import deepspeed

    internals.reduce_through_gloo()
    deepspeed.init_distributed(dist_backend="nccl" if gpus else "gloo")


def initialise_engine(
    model: torch.nn.Module, settings: dict[str, Any], config: TrainConfig, groups: Any = None
) -> Any:
    """Wrap a model whose weights are equal on every rank, or partitioned already. Matrices have weight decay,
    vectors do not.

    `muon` (Jordan et al. 2024) orthogonalises the updates of the hidden matrices and leaves embeddings, head
    and vectors to AdamW; DeepSpeed shards both. `settings` comes from `deepspeed_config`, `groups` from
    `parallel.sequence` or `parallel.tensor`.
    """
    import torch

    start(config.gpus_per_worker)
    import deepspeed

    eager = not config.torch_compile and not config.gpus_per_worker
    if eager:
        _import_muon_uncompiled()
    starts.register_hooks_without_gathering()
    starts.train_fp32_weights_in_place()
    parameters = [p for p in model.parameters() if p.requires_grad]
    lookup = _input_embeddings(model)
    decay, betas = config.weight_decay, config.betas
    decays = [
        {"params": [p for p in parameters if _is_matrix(p) and p is not lookup], "weight_decay": decay},
        {"params": [p for p in parameters if p is lookup], "weight_decay": decay, "name": EMBEDDINGS},
        {"params": [p for p in parameters if not _is_matrix(p)], "weight_decay": 0.0},
    ]
    decays = [group for group in decays if group["params"]]
    if config.optimizer == "muon":
        if eager:
            torch.compiler.set_stance("force_eager")  # compiled kernels need a compiler at run time
        muon = {"lr": 0.0, "momentum": config.muon_momentum, "betas": betas, "eps": 1e-8, "torch_adam": True}
        # DeepSpeed's Muon gathers whole gradients itself under ZeRO-3, and rejects scattered ones.
        zero = settings["zero_optimization"] | {"reduce_scatter": config.zero.stage < 3}
        settings = settings | {"optimizer": {"type": "Muon", "params": muon}, "zero_optimization": zero}
        engine, *_ = deepspeed.initialize(model=model, model_parameters=decays, config=settings, mpu=groups)
    else:
        adamw = torch.optim.AdamW(decays, lr=0.0, betas=betas, eps=1e-8, fused=True)
        engine, *_ = deepspeed.initialize(model=model, optimizer=adamw, config=settings, mpu=groups)
    internals.forget_step_of_zeros(engine)
    engine.gradient_divisor = _gradient_divisor(engine, groups)
    return engine


def _import_muon_uncompiled() -> None:
    """Import DeepSpeed's Muon, which it does for any optimizer, without compiling its functions.

    The compiler's own import takes 1.2 s of CPU time.
    """
    switch = "TORCHDYNAMO_DISABLE"  # torch reads it where a function is decorated
    before = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        os.environ.pop(switch)
        if before is not None:
            os.environ[switch] = before


def _is_matrix(parameter: Any) -> bool:
    return len(internals.whole_shape(parameter)) >= 2


def _gradient_divisor(engine: Any, groups: Any) -> int:
    """Factor that turns DeepSpeed's mean of gradients into the sum over all workers' rows.

    DeepSpeed divides by the number of groups that share rows, but where ZeRO-3 scatters gradients by the
    number of workers. Workers that share layers each count their rows, which cancels this.
    """
    import torch.distributed as dist

    workers = dist.get_world_size()
    if internals.tensor_parallel(engine)[1] > 1 or groups is None:
        return workers
    if engine.zero_optimization_stage() == 3 and internals.scatters_gradients(engine):
        return workers
    return workers // int(groups.get_sequence_parallel_world_size())


def _input_embeddings(model: Any) -> Any:
    layer = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    return getattr(layer, "weight", None)


def set_learning_rate(
    engine: Any, rate: float, muon_rate: float, embedding_rate: float | None = None
) -> None:
    """Set learning rates: AdamW's `rate`, the input embeddings' `embedding_rate`, Muon's `muon_rate`."""
    for group in engine.optimizer.param_groups:
        if internals.uses_muon(group):
            group["lr"] = muon_rate
        elif group.get("name", "").startswith(EMBEDDINGS):
            group["lr"] = rate if embedding_rate is None else embedding_rate
        else:
            group["lr"] = rate


def set_momentum(engine: Any, momentum: float) -> None:
    """Set the momentum of Muon, where it trains anything."""
    groups = [group for group in engine.optimizer.param_groups if internals.uses_muon(group)]
    for group in groups:
        group["momentum"] = momentum
    if groups and engine.zero_optimization_stage() == 3:
        internals.set_momentum_of_stage_3(engine, momentum)


def set_weight_decay(engine: Any, decay: float) -> None:
    """Set the weight decay of the groups that have one."""
    for group in engine.optimizer.param_groups:
        if group.setdefault("decays", group["weight_decay"] > 0):
            group["weight_decay"] = decay


@contextlib.contextmanager
def gathered(engine: Any, parameters: Sequence[torch.Tensor] | None = None) -> Iterator[Any]:
    """The module with whole parameters on every rank (ZeRO-3 partitions them), all or these; all ranks must
    enter."""
    import deepspeed

    if engine.zero_optimization_stage() < 3:
        yield engine.module
        return
    chosen = list(engine.module.parameters()) if parameters is None else list(parameters)
    with deepspeed.zero.GatheredParameters(chosen, modifier_rank=None):
        yield engine.module
