"""Checks of a Ray cluster by tasks on every node: versions, clocks and the network between nodes."""

from __future__ import annotations

import datetime
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from headwater.cluster.doctor.checks import CLOCK_SECONDS, GB, Finding
from headwater.cluster.versions import differences, recorded_versions

ANSWER_SECONDS = 60.0
"""Timeout of a node's answer. The first task on a node starts a process there."""
REDUCED_ELEMENTS, REDUCTIONS = 1 << 22, 3
"""Size of the all-reduce (16 MB of fp32) and number of timed repetitions after one warm-up."""


def examine() -> Iterator[Finding]:
    """Check every live node and the network between them. Ray must be connected."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    working = [node for node in nodes if node["Resources"].get("CPU", 0) > 0]
    if not working:
        yield Finding(
            "nodes",
            "warning",
            f"{len(nodes)} without CPUs",
            "an autoscaling cluster adds workers with the first work",
        )
        return
    reports = _on_each(working, _report)
    for node, report in zip(working, reports, strict=True):
        yield from _node(node, report, recorded_versions())
    if len(working) > 1:
        yield _network(working)


def _node(node: Mapping[str, Any], report: Any, here: Mapping[str, str]) -> Iterator[Finding]:
    name = f"node {node['NodeManagerAddress']}"
    if isinstance(report, Exception):
        yield Finding(name, "error", f"does not answer ({type(report).__name__})", "read its raylet log")
        return
    resources = node["Resources"]
    wanted = {package: version for package, version in here.items() if package != "headwater"}
    different = differences(report["versions"], wanted)
    size = (
        f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs, "
        f"{resources.get('memory', 0) / GB:.1f} GB"
    )
    if different:
        fix = "use the same image on every node, or submit with --install"
        yield Finding(name, "error", "; ".join(different), fix)
    else:
        yield Finding(name, "ok", f"{size}; same versions as here")
    drift = max(report["time"] - report["answered"], report["asked"] - report["time"], 0.0)
    if drift > CLOCK_SECONDS:
        yield Finding(f"clock of {name}", "error", f"{drift:.0f} s off", "run NTP on every host")


def _report() -> dict[str, Any]:
    return {"versions": recorded_versions(), "time": time.time()}


def _on_each(nodes: list[dict[str, Any]], function: Any) -> list[Any]:
    """Result of the function on every node, or the exception it raised there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = time.time()
    waiting = []
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task: Any = ray.remote(num_cpus=0, max_retries=0)(function)
        waiting.append(task.options(scheduling_strategy=strategy).remote())
    results = []
    for reference in waiting:
        try:
            result = ray.get(reference, timeout=ANSWER_SECONDS)
            results.append(result | {"asked": asked, "answered": time.time()})
        except ray.exceptions.RayError as error:
            results.append(error)
    return results


def _network(nodes: list[dict[str, Any]]) -> Finding:
    """Run an all-reduce with one worker per node, as training does."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    on_gpus = all(node["Resources"].get("GPU", 0) >= 1 for node in nodes)
    backend = "nccl" if on_gpus else "gloo"
    make: Any = ray.remote(num_cpus=0, num_gpus=1 if on_gpus else 0)(_Reducer)
    actors = [
        make.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote()
        for node in nodes
    ]
    name = f"{backend} between {len(nodes)} nodes"
    try:
        where = ray.get(actors[0].address.remote(), timeout=ANSWER_SECONDS)
        times = ray.get(
            [actor.reduce.remote(rank, len(actors), where, backend) for rank, actor in enumerate(actors)],
            timeout=ANSWER_SECONDS,
        )
    except ray.exceptions.RayError as error:
        fix = "open all ports between the nodes; set GLOO_SOCKET_IFNAME on hosts with several networks"
        return Finding(name, "error", f"no all-reduce ({type(error).__name__})", fix)
    finally:
        for actor in actors:
            ray.kill(actor)
    megabytes = REDUCTIONS * REDUCED_ELEMENTS * 4 / 1e6
    return Finding(name, "ok", f"all-reduce at {megabytes / max(times):,.0f} MB/s per worker")


class _Reducer:
    """One rank of the all-reduce."""

    def address(self) -> str:
        """Address at which rank 0 listens."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

    def reduce(self, rank: int, world_size: int, address: str, backend: str) -> float:
        """Total seconds of the timed reductions."""
        import torch
        import torch.distributed as dist

        os.environ.setdefault("OMP_NUM_THREADS", "1")
        device = "cuda" if backend == "nccl" else "cpu"
        limit = datetime.timedelta(seconds=ANSWER_SECONDS / 2)
        dist.init_process_group(backend, init_method=address, rank=rank, world_size=world_size, timeout=limit)
        values = torch.ones(REDUCED_ELEMENTS, device=device)
        dist.all_reduce(values)
        started = time.perf_counter()
        for _ in range(REDUCTIONS):
            dist.all_reduce(values)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        dist.destroy_process_group()
        return seconds
