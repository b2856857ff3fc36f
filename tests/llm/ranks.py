"""Processes that form a gloo group on this machine, without Ray.

They are forked from a server that has imported the engine once; importing it in every rank took most of the
time of the tests that use them.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

IMPORTED_ONCE = [
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "transformers.models.qwen3.modeling_qwen3",
    "headwater.llm.model.cpu_kernels",
    "headwater.llm.rl.losses",
    "headwater.llm.training.loop",
    "headwater.llm.training.engine",
    "ray.train",
]


def on_ranks(world_size: int, function: Callable[..., None], *arguments: Any) -> None:
    """Run `function(*arguments)` in so many processes at once; raises what one of them raised."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    multiprocessing.get_context("forkserver").set_forkserver_preload(IMPORTED_ONCE)
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{Path(folder) / 'meeting'}"
        torch.multiprocessing.start_processes(  # type: ignore[attr-defined,no-untyped-call]
            _one_rank,
            (world_size, meeting, dict(os.environ), function, arguments),
            nprocs=world_size,
            start_method="forkserver",
        )


def _one_rank(
    rank: int,
    world_size: int,
    meeting: str,
    environment: dict[str, str],
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    gc.freeze()  # DeepSpeed collects garbage by hand; what the server has imported is none
    torch.set_num_threads(1)
    os.environ.clear()  # the server's is what the first caller's was
    os.environ |= environment
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(world_size)}
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    function(*arguments)
    dist.barrier()  # none takes its connections down while another still uses them
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    # The libraries' threads may outlive the interpreter, which then aborts ("terminate called without an
    # active exception", seen once in some ten groups) though all went well.
    os._exit(0)
