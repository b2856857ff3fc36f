"""How workers of a group communicate: the network interface, and the timeout of collectives."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from ray.train.torch.config import TorchConfig, _TorchBackend

from headwater.llm.training.health.preemption import heed_sigterm
from headwater.llm.training.undocumented.deepspeed_internals import own_groups


class _OnRaysNetwork(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(prepare_process)
        super().on_start(worker_group, backend_config)


class ProcessGroupConfig(TorchConfig):
    """Ray Train's `torch.distributed` settings, using the network that Ray uses."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _OnRaysNetwork


def prepare_process() -> None:
    """Setup of a worker's main thread, before its training thread starts."""
    use_rays_network()
    heed_sigterm()


def use_rays_network() -> None:
    """Make gloo and NCCL use the interface that has this node's Ray address.

    By default gloo uses the address that the host name resolves to, which other hosts may not reach if there
    are several networks or containers. GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME in the workers' environment
    take precedence.
    """
    import ray

    interface = interface_of(ray.util.get_node_ip_address())
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # "=": exact name, not a prefix


def interface_of(address: str) -> str | None:
    """The network interface with an IP address; None if there is none (address translation)."""
    import psutil  # type: ignore[import-untyped]

    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address.split("%")[0] == address for entry in addresses):
            return str(name)
    return None


def limit_waiting(engine: Any, seconds: int) -> None:
    """Set the timeout of DeepSpeed's own process groups, which default to torch's half hour."""
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import _set_pg_timeout

    for group in own_groups(engine) if dist.get_world_size() > 1 else ():
        _set_pg_timeout(timedelta(seconds=seconds), group)
