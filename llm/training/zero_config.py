"""Settings of DeepSpeed ZeRO: sharding, exchange, offload and loss scaling."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError, field_validator, model_validator

from headwater.cluster.errors import did_you_mean
from headwater.cluster.runtime.stage import StageConfig

Optimizer = Literal["adamw", "muon"]
Device = Literal["none", "cpu", "nvme"]
GradientType = Literal["auto", "model", "fp32"]
OWNED = {
    "stage": "zero.stage",
    "reduce_bucket_size": "zero.bucket_elements",
    "allgather_bucket_size": "zero.bucket_elements",
    "overlap_comm": "zero.overlap_comm",
    "offload_param": "zero.offload_parameters",
    "offload_optimizer": "zero.offload_optimizer",
    "cpu_offload": "zero.offload_optimizer",
    "cpu_offload_param": "zero.offload_parameters",
    "cpu_offload_use_pin_memory": "zero.offload_optimizer",
    "prefetch_bucket_size": "zero.prefetch_elements",
    "param_persistence_threshold": "zero.persist_below",
    "zero_hpz_partition_size": "zero.hpz_partition_size",
    "zero_quantized_weights": "zero.quantised_weights",
    "zero_quantized_gradients": "zero.quantised_gradients",
    "reduce_scatter": "",  # the scale of gradients follows from it
    "contiguous_gradients": "",
    "compute_grad_norm": "",  # without it no bad step is seen
    "zero_quantized_nontrainable_weights": "",  # frozen weights are read in their own precision
    "elastic_checkpoint": "",  # checkpoints are our own
    "load_from_fp32_weights": "",
    "gather_16bit_weights_on_model_save": "",
    "stage3_gather_fp16_weights_on_model_save": "",
    "pipeline_loading_checkpoint": "",
    "legacy_stage1": "",
    "zenflow": "",  # an optimizer of another form
}
"""Keys of DeepSpeed's `zero_optimization` that Headwater sets → the setting of ours, if there is one."""


class GradientTypes(NamedTuple):
    """Number formats of gradients: fp32, bf16 or fp16."""

    kept: str
    """While micro-batches are added up."""
    sent: str
    """When the workers exchange them."""


class ZeroConfig(StageConfig):
    """How training state is sharded over the workers (Rajbhandari et al. 2019)."""

    stage: Literal[0, 1, 2, 3] = 2
    """What is sharded: 0 nothing, 1 optimizer state, 2 also gradients, 3 also parameters. Higher stages save
    memory and cost communication."""
    offload_optimizer: Device = "none"
    """Where optimizer state is kept: `none` on the worker's device, `cpu` in host memory (Ren et al. 2021),
    `nvme` on a disk of the host (stage 3; Rajbhandari et al. 2021)."""
    offload_parameters: Device = "none"
    """Where parameters are kept, at stage 3: `none`, `cpu` or `nvme` as for `offload_optimizer`."""
    nvme_path: str = ""
    """Folder on a fast disk of every host, for `nvme`."""
    bucket_elements: int = Field(50_000_000, ge=1)
    """Elements per reduce or all-gather. Smaller saves memory, larger saves latency."""
    overlap_comm: bool | None = None
    """Exchange gradients while the backward pass still computes, for a second bucket of memory. Default: on
    GPUs at stages 1 to 3."""
    grad_accum_dtype: GradientType = "auto"
    """Number format in which gradients of micro-batches are added up: `model` is the model's, `fp32` needs
    stage 2 or 3 and AdamW. `auto`: fp32 for a bf16 model where it is possible, because a sum in bf16 loses
    small terms (Megatron-LM and torchtitan add up in fp32); else the model's."""
    communication_data_type: GradientType = "auto"
    """Number format in which workers exchange gradients: `model` halves the traffic of a 16-bit model, `fp32`
    sums exactly. `auto`: fp32 for a bf16 model, as in Megatron-LM and torchtitan; else the model's."""
    prefetch_elements: int = Field(50_000_000, ge=0)
    """Stage 3: elements of the next layers' parameters that are gathered ahead of their use. More hides more
    of the exchange and takes more memory; 0 gathers each when it is used."""
    persist_below: int = Field(0, ge=0)
    """Stage 3: parameters with fewer elements stay whole on every worker, which saves the latency of
    gathering them (DeepSpeed's default is 100,000: norms and biases)."""
    hpz_partition_size: int = Field(1, ge=1)
    """Stage 3: each group of so many adjacent workers, as many as a node has GPUs, keeps a second copy of the
    16-bit parameters, so that backward passes gather within a node (ZeRO++ hpZ, Wang et al. 2023). Costs
    that copy's memory: the model's over this number."""
    quantised_weights: bool = False
    """Stage 3 on GPUs: gather parameters in 8 bits, for half the traffic (ZeRO++ qwZ). Passes compute with
    the rounded weights: losses change slightly. Needs a CUDA compiler on every host."""
    quantised_gradients: bool = False
    """Stage 3 on GPUs: exchange gradients in 4 bits (ZeRO++ qgZ), for a quarter of the traffic; they are
    rounded. Needs a CUDA compiler on every host, and AdamW."""
    extra: dict[str, Any] = {}
    """Further keys of DeepSpeed's `zero_optimization` section, such as `sub_group_size`. Names and values are
    checked by DeepSpeed's own model; keys that Headwater sets itself are refused."""

    @field_validator("offload_optimizer", mode="before")
    @classmethod
    def _as_a_switch(cls, value: object) -> object:
        return {True: "cpu", False: "none"}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _what_can_be_offloaded(self) -> ZeroConfig:
        places = {self.offload_optimizer, self.offload_parameters}
        if self.offload_parameters != "none" and self.stage < 3:
            raise ValueError("offload_parameters needs stage 3, which shards parameters")
        if self.offload_optimizer != "none" and self.stage < 1:
            raise ValueError("offload_optimizer needs stage 1, 2 or 3")
        if "nvme" in places and (self.stage < 3 or not self.nvme_path):
            raise ValueError("nvme needs stage 3 and `nvme_path`")
        return self

    @model_validator(mode="after")
    def _what_goes_together(self) -> ZeroConfig:
        if self.grad_accum_dtype == "fp32" and self.stage < 2:
            raise ValueError(
                "`grad_accum_dtype: fp32` needs stage 2 or 3: at 0 DeepSpeed has none, at 1 it brings an "
                "optimizer whose state our checkpoints do not know"
            )
        if self.overlap_comm and self.stage < 1:
            raise ValueError("overlap_comm needs stage 1, 2 or 3")
        third = ("persist_below", "hpz_partition_size", "quantised_weights", "quantised_gradients")
        for name in third if self.stage < 3 else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} needs stage 3, which shards parameters")
        if self.hpz_partition_size > 1 and self.offload_parameters != "none":
            raise ValueError(
                "hpz_partition_size and offload_parameters exclude each other: the second copy is for the GPU"
            )
        if self.quantised_weights and self.offload_parameters != "none":
            raise ValueError("quantised_weights needs parameters on the GPU: remove offload_parameters")
        return self

    @model_validator(mode="after")
    def _extra_is_deepspeeds(self) -> ZeroConfig:
        if self.extra:
            check_extra(self.extra, self.stage)
        return self

    def overlaps(self, gpus: float) -> bool:
        """Whether gradients are exchanged during the backward pass, on workers with so many GPUs each."""
        return self.stage > 0 and (gpus > 0 if self.overlap_comm is None else self.overlap_comm)

    def gradient_types(self, precision: str, optimizer: Optimizer) -> GradientTypes:
        """For a model in fp32, bf16 or fp16. DeepSpeed adds up Muon's matrices in the model's format."""
        usual = "fp32" if precision == "bf16" else precision
        kept, sent = (
            {"auto": usual, "model": precision, "fp32": "fp32"}[chosen]
            for chosen in (self.grad_accum_dtype, self.communication_data_type)
        )
        return GradientTypes(kept if self.stage >= 2 and optimizer == "adamw" else precision, sent)

    def fault_with(
        self, *, workers: int, elastic: bool, gpus: float, optimizer: str, sharing_layers: bool
    ) -> str | None:
        """Why these settings cannot run on such workers; None if they can."""
        size = self.hpz_partition_size
        if size > 1 and (workers % size or elastic or sharing_layers):
            return (
                f"`zero.hpz_partition_size` ({size}) must divide `workers` ({workers}), and excludes "
                "`min_workers` and `tensor_parallel`"
            )
        if (self.quantised_weights or self.quantised_gradients) and not gpus:
            return "`zero.quantised_weights` and `zero.quantised_gradients` need GPUs (`gpus_per_worker`)"
        if self.grad_accum_dtype == "fp32" and optimizer == "muon":
            return (
                "`zero.grad_accum_dtype: fp32` needs `optimizer: adamw`: Muon's are added up as the model's"
            )
        if self.quantised_gradients and optimizer == "muon":
            return "`zero.quantised_gradients` needs `optimizer: adamw`: Muon needs whole gradients"
        return None


def check_extra(extra: dict[str, Any], stage: int) -> None:
    """Raises ValueError for keys or values that DeepSpeed's `zero_optimization` does not have, and for keys
    that are ours."""
    if importlib.util.find_spec("deepspeed") is None:
        raise ValueError("`extra` is checked by DeepSpeed, which is not installed")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    fields = DeepSpeedZeroConfig.model_fields
    names = {field.alias or name: name for name, field in fields.items()} | {name: name for name in fields}
    for key in extra:
        if key not in names:
            hint = did_you_mean(key, names)
            raise ValueError(f"extra.{key}: DeepSpeed has no such key" + (f"; {hint}" if hint else ""))
        own = OWNED.get(names[key])
        if own is not None:
            raise ValueError(
                f"extra.{key}: Headwater sets this key itself" + (f"; use `{own}`" if own else "")
            )
    try:
        DeepSpeedZeroConfig(**({"stage": stage} | extra))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"extra.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


class Fp16Config(StageConfig):
    """Loss scaling in fp16, which keeps small gradients from underflowing (Micikevicius et al. 2018)."""

    loss_scale: float = Field(0.0, ge=0)
    """A fixed scale; 0 searches for the largest one that does not overflow."""
    initial_scale_power: int = Field(16, ge=0)
    """The search starts at 2 to this power."""
    scale_window: int = Field(1000, ge=1)
    """Steps without overflow before the scale is doubled."""
