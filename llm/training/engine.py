"""Prepare a model for training: adapters, activation checkpointing, sharding, moving average."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headwater.cluster.errors import HeadwaterError
from headwater.llm.hardware.precision import resolve_precision, torch_dtype
from headwater.llm.model.adapters import missing_targets, with_adapters
from headwater.llm.model.coverage import check_tensor_parallel
from headwater.llm.training import zero
from headwater.llm.training.config import FineTuneConfig, TrainConfig
from headwater.llm.training.parallel import sequence as sequences
from headwater.llm.training.parallel import tensor as tensors
from headwater.llm.training.state import birth
from headwater.llm.training.state.average import Average
from headwater.llm.training.zero_config import ZeroConfig

if TYPE_CHECKING:
    import torch


def build(model: torch.nn.Module, config: TrainConfig, world_size: int, *, fill: bool = True) -> Any:
    """The DeepSpeed engine for a model that is equal on every rank; all ranks must call it.

    A model may have no values yet (`llm/model/origins.py`): without `fill` they are left to
    `Checkpoints.restore`, which may have better ones.
    Raises HeadwaterError for settings that this host does not support.
    """
    from headwater.llm.model.cpu_kernels import use_kernels

    gpus = config.gpus_per_worker
    precision = resolve_precision(config.precision, gpus)
    check_means(config.zero, precision, gpus)
    stretches, sharing = config.sequence_parallel_size(), config.tensor_parallel_size()
    if stretches == 1 and not config.torch_compile and not gpus:
        use_kernels(model)
    if isinstance(config, FineTuneConfig) and config.lora:
        model = with_adapters(model, config.lora, config.seed)
    model.train()  # loaded models are in eval mode, which disables checkpointing
    if config.activation_checkpointing:
        checkpoint_activations(model)
    if stretches > 1 or sharing > 1:
        zero.start(gpus)
    groups = sequences.exchange_in_attention(model, stretches, config.micro_batch)
    if sharing > 1:
        check_tensor_parallel(model)
        groups = tensors.form_groups(sharing)
    settings = zero.deepspeed_config(config, precision, world_size) | tensors.settings(sharing)
    origins = birth.give_memory(model, settings, config, torch_dtype(precision), groups)
    engine = zero.initialise_engine(model, settings, config, groups)
    engine.origins = origins
    if fill:
        birth.fill(engine)
    if config.torch_compile:
        engine.compile()
    if config.ema_decay is not None:
        Average(engine, config.ema_decay)
    return engine


def skipped_adapters(model: Any, config: TrainConfig) -> str:
    """Which default targets of adapters the model does not have, for people; empty if it has all."""
    lora = config.lora if isinstance(config, FineTuneConfig) else None
    missing = missing_targets(model, lora) if lora else []
    if not missing:
        return ""
    return f"lora: the model has no {', '.join(missing)}: adapters go to the other default `targets` alone"


def check_means(sharding: ZeroConfig, precision: str, gpus: float = 0.0) -> None:
    """Raises HeadwaterError for GPU-only settings on CPUs, and for what DeepSpeed cannot build here."""
    if precision == "fp16" and not gpus:
        raise HeadwaterError("fp16 needs GPUs", where="precision", fix="choose `bf16` or `fp32`")
    if sharding.offload_parameters == "nvme" and precision == "fp32":
        raise HeadwaterError(
            "DeepSpeed's NVMe buffers cannot hold fp32 parameters exactly",
            where="zero.offload_parameters",
            fix="choose `precision: bf16`, or `cpu` to keep parameters in host memory",
        )
    if sharding.quantised_weights or sharding.quantised_gradients:
        from deepspeed.ops.op_builder import QuantizerBuilder

        if not QuantizerBuilder().is_compatible(verbose=False):
            raise HeadwaterError(
                "DeepSpeed cannot build its quantiser here",
                where="zero.quantised_weights, zero.quantised_gradients",
                fix="install the CUDA toolkit on every host, or remove the settings",
            )
    if "nvme" in (sharding.offload_optimizer, sharding.offload_parameters):
        from deepspeed.ops.op_builder import AsyncIOBuilder

        if not AsyncIOBuilder().is_compatible(verbose=False):
            raise HeadwaterError(
                "NVMe offload is not available: DeepSpeed's asynchronous I/O needs libaio",
                where="zero.offload_optimizer, zero.offload_parameters",
                fix="install libaio-dev and a C++ compiler on every host, or choose `cpu`",
            )


def checkpoint_activations(model: Any) -> None:
    """Store only each layer's input and recompute the layer in the backward pass (Chen et al. 2016)."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
