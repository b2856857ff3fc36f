"""How the workers of a group reach each other: over which network, and how long one waits for another."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from ray.train.torch.config import TorchConfig, _TorchBackend

from headwater.llm.training.health.preemption import heed_sigterm


class _OnRaysNetwork(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(prepare_process)
        super().on_start(worker_group, backend_config)


class ProcessGroupConfig(TorchConfig):
    """Ray Train's settings of `torch.distributed`, on the network that Ray itself uses."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _OnRaysNetwork


def prepare_process() -> None:
    """What a worker's main thread has to do before its training thread starts."""
    use_rays_network()
    heed_sigterm()


def use_rays_network() -> None:
    """Have gloo and NCCL talk over the interface that has this node's Ray address.

    Left to itself gloo takes the address that the host's name resolves to, which on a host with several
    networks, or in a container, need not be one that the others can reach. What the environment of the
    workers says (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME) goes first.
    """
    import ray

    interface = interface_of(ray.util.get_node_ip_address())
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # "=": this one, not all that begin so


def interface_of(address: str) -> str | None:
    """The network interface that has an IP address; None where no interface has it (address translation)."""
    import psutil  # type: ignore[import-untyped]

    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address.split("%")[0] == address for entry in addresses):
            return str(name)
    return None


def limit_waiting(engine: Any, seconds: int) -> None:
    """The same time limit for DeepSpeed's own groups, which it makes with torch's half hour."""
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import _set_pg_timeout

    if dist.get_world_size() > 1:
        _set_pg_timeout(timedelta(seconds=seconds), engine.data_parallel_group)
    if engine.autotp_size() > 1:
        _set_pg_timeout(timedelta(seconds=seconds), engine.mpu.get_tensor_model_parallel_group())
