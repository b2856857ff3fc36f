"""Processes that form one gloo group on this machine, without Ray: for what happens between ranks alone."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def on_ranks(world_size: int, function: Callable[..., None], *arguments: Any) -> None:
    """Run `function(*arguments)` in so many processes at once; raises what one of them raised."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{Path(folder) / 'meeting'}"
        torch.multiprocessing.spawn(  # type: ignore[attr-defined,no-untyped-call]
            _one_rank, (world_size, meeting, function, arguments), nprocs=world_size
        )


def _one_rank(
    rank: int, world_size: int, meeting: str, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(world_size)}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "DS_ACCELERATOR": "cpu"}
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    function(*arguments)
    dist.barrier()  # none takes its connections down while another still uses them
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    # The libraries' threads may outlive the interpreter, which then aborts ("terminate called without an
    # active exception", seen once in some ten groups) though all went well.
    os._exit(0)
