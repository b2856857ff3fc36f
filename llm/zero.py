"""DeepSpeed ZeRO: a training recipe to an engine; gathering its weights.

The same code runs on CPU workers over gloo and on GPUs over NCCL; only settings differ.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster.stage import StageConfig

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Optimizer = Literal["adamw", "muon"]


class ZeroConfig(StageConfig):
    """How training state is sharded over the workers (Rajbhandari et al. 2019)."""

    stage: Literal[0, 1, 2, 3] = 2
    """0 replicates; 1 shards optimizer state; 2 gradients too; 3 parameters too."""
    offload_optimizer: bool = False
    """Keep optimizer state in host memory (GPU workers)."""
    bucket_elements: int = 50_000_000
    """Elements of one reduce or all-gather; smaller saves memory, larger saves latency."""


def resolve_precision(precision: Precision) -> Literal["fp32", "bf16", "fp16"]:
    """`auto` is bf16 where the hardware multiplies it natively, fp32 elsewhere."""
    import torch

    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "bf16" if "avx512_bf16" in flags or "amx_bf16" in flags else "fp32"


def torch_dtype(precision: Literal["fp32", "bf16", "fp16"]) -> torch.dtype:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def deepspeed_config(
    zero: ZeroConfig, precision: str, *, micro_batch: int, accumulation: int, world_size: int, clip: float
) -> dict[str, Any]:
    """The dictionary that `deepspeed.initialize` reads."""
    stage: dict[str, Any] = {
        "stage": zero.stage,
        "reduce_bucket_size": zero.bucket_elements,
        "allgather_bucket_size": zero.bucket_elements,
        "contiguous_gradients": True,
        "overlap_comm": False,
        "stage3_param_persistence_threshold": 0,
    }
    if zero.offload_optimizer:
        stage["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": micro_batch * accumulation * world_size,
        "gradient_clipping": clip,
        "zero_optimization": stage,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }


def initialise_engine(
    model: torch.nn.Module,
    config: dict[str, Any],
    *,
    optimizer: Optimizer,
    weight_decay: float,
    betas: tuple[float, float],
) -> Any:
    """Wrap a model whose weights are equal on every rank. Matrices decay, vectors do not.

    `muon` (Jordan et al. 2024) orthogonalises the updates of the hidden matrices and leaves embeddings,
    head and vectors to AdamW; DeepSpeed shards both.
    """
    import torch

    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    import deepspeed

    # DeepSpeed's shared-memory reduction is compiled at first use and reaches one host only; gloo needs
    # no compiler and reaches them all.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo")
    if optimizer == "muon":
        if not torch.cuda.is_available():
            torch.compiler.set_stance("force_eager")  # its kernels would need a compiler at run time
        settings = {"lr": 0.0, "momentum": 0.95, "betas": betas, "eps": 1e-8, "torch_adam": True}
        # DeepSpeed's Muon gathers whole gradients itself under ZeRO-3, and refuses scattered ones.
        zero = config["zero_optimization"]
        zero = zero | {"reduce_scatter": zero["stage"] < 3}
        config = config | {"optimizer": {"type": "Muon", "params": settings}, "zero_optimization": zero}
        engine, *_ = deepspeed.initialize(model=model, model_parameters=groups, config=config)
    else:
        adamw = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=1e-8)
        engine, *_ = deepspeed.initialize(model=model, optimizer=adamw, config=config)
    return engine


def set_learning_rate(engine: Any, rate: float, muon_rate: float) -> None:
    """`rate` is AdamW's; the groups that Muon updates get `muon_rate`."""
    for group in engine.optimizer.param_groups:
        group["lr"] = muon_rate if group.get("use_muon") else rate


@contextlib.contextmanager
def gathered(engine: Any) -> Iterator[Any]:
    """The module with whole parameters on every rank (ZeRO-3 partitions them); all ranks must enter."""
    import deepspeed

    if engine.zero_optimization_stage() < 3:
        yield engine.module
        return
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters()), modifier_rank=None):
        yield engine.module
