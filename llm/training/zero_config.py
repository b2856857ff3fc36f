"""Settings of DeepSpeed ZeRO: sharding, offload and loss scaling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import field_validator, model_validator

from headwater.cluster.runtime.stage import StageConfig

if TYPE_CHECKING:
    pass


Optimizer = Literal["adamw", "muon"]


Device = Literal["none", "cpu", "nvme"]


class ZeroConfig(StageConfig):
    """How training state is sharded over the workers (Rajbhandari et al. 2019)."""

    stage: Literal[0, 1, 2, 3] = 2
    """0 replicates; 1 shards optimizer state; 2 gradients too; 3 parameters too."""
    offload_optimizer: Device = "none"
    """Where optimizer state is kept: on the worker's device, in its host's memory (Ren et al. 2021), or on a
    disk in it (stage 3; Rajbhandari et al. 2021)."""
    offload_parameters: Device = "none"
    """The same for the parameters themselves, at stage 3."""
    nvme_path: str = ""
    """Folder on a fast disk of every host, for `nvme`."""
    bucket_elements: int = 50_000_000
    """Elements of one reduce or all-gather; smaller saves memory, larger saves latency."""

    @field_validator("offload_optimizer", mode="before")
    @classmethod
    def _as_a_switch(cls, value: object) -> object:
        return {True: "cpu", False: "none"}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _what_can_be_offloaded(self) -> ZeroConfig:
        places = {self.offload_optimizer, self.offload_parameters}
        if self.offload_parameters != "none" and self.stage < 3:
            raise ValueError("offload_parameters needs stage 3: only there are parameters sharded")
        if self.offload_optimizer != "none" and self.stage < 1:
            raise ValueError("offload_optimizer needs stage 1, 2 or 3")
        if "nvme" in places and (self.stage < 3 or not self.nvme_path):
            raise ValueError("nvme needs stage 3 and `nvme_path`")
        return self


class Fp16Config(StageConfig):
    """How losses are scaled in fp16, so that small gradients do not vanish (Micikevicius et al. 2018)."""

    loss_scale: float = 0.0
    """A fixed scale; 0 looks for the largest that does not overflow."""
    initial_scale_power: int = 16
    """The search begins at 2 to this power."""
    scale_window: int = 1000
    """Steps without overflow after which the scale is doubled."""
