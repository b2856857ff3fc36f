"""Settings of DeepSpeed ZeRO: sharding, offload and loss scaling."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from headwater.cluster.runtime.stage import StageConfig

Optimizer = Literal["adamw", "muon"]
Device = Literal["none", "cpu", "nvme"]


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


class Fp16Config(StageConfig):
    """Loss scaling in fp16, which keeps small gradients from underflowing (Micikevicius et al. 2018)."""

    loss_scale: float = Field(0.0, ge=0)
    """A fixed scale; 0 searches for the largest one that does not overflow."""
    initial_scale_power: int = Field(16, ge=0)
    """The search starts at 2 to this power."""
    scale_window: int = Field(1000, ge=1)
    """Steps without overflow before the scale is doubled."""
