"""Checks of the plan: memory and speed of a training through Ray, measured as `headwater plan` does it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.store import Store
from headwater.llm.hardware.machines import MFU, Gpu, Machine
from headwater.llm.model.shape import ModelConfig
from headwater.llm.planning.calibrate import Calibration, calibrate
from headwater.llm.planning.layouts import Memory
from headwater.llm.planning.plan import Work, plan_gpus, plan_here
from headwater.llm.selftest.checks import Found, Skipped
from headwater.llm.selftest.place import Place
from headwater.llm.stages.pretrain import PretrainConfig
from headwater.llm.training.zero_config import ZeroConfig

STATE = 0.01
"""Largest deviation of weights and optimizer state; `benchmarks/training/zero_memory.py` found 0.1 %."""
PEAK = 0.1
"""Largest deviation of a GPU's peak; `headwater plan` promises 5 % for the activations in it."""
LIBRARIES = 0.5e9
"""Bytes by which a CPU worker's libraries may exceed, or fall short of, the plan's assumption."""


@dataclass(frozen=True)
class Planned:
    """A pretraining to plan and to measure."""

    depth: int
    row_length: int
    vocabulary: int
    batch: int
    micro_batch: int

    def work(self, *, gpus: float, micro_batch: int | None = None, stage: int = 2) -> Work:
        config = PretrainConfig(
            batch=self.batch,
            micro_batch=micro_batch or self.micro_batch,
            workers=1,
            gpus_per_worker=gpus,
            keep_checkpoints=1,
            zero=ZeroConfig.model_validate({"stage": stage}),
            model=ModelConfig(depth=self.depth, context=self.row_length),
        )
        return Work("selftest", config, self.vocabulary, self.row_length)


def on_cpu(planned: Planned) -> Iterator[Found]:
    """Memory of a CPU worker against the plan's, and its speed, which a plan does not foretell."""
    work = planned.work(gpus=0)
    expected = plan_here(work, None, None)
    (memory,) = [row for row in expected.memory if row.zero == work.config.zero.stage]
    measured = measure(work)
    yield state_row(measured, memory)
    low, high = memory.total - LIBRARIES, memory.total + LIBRARIES
    yield Found(
        low <= measured.peak_bytes <= high,
        f"{size(measured.peak_bytes)}",
        f"{size(memory.total)} by {size(LIBRARIES)}, since the libraries' part is assumed",
        "peak memory",
    )
    reached = share_of_peak(work, measured)
    yield Found(0 < reached <= 1, f"{reached:.1%}", "above 0: a plan measures it on CPUs", "MFU")


def on_gpu(planned: Planned, place: Place) -> list[Found]:
    """Memory and speed of a GPU worker, in the layout that the plan finds fastest, against the plan's."""
    machine = place.run(this_gpu)
    work, memory = layout(planned, machine)
    place.end()  # gives its GPU memory back
    return beside(work, memory, measure(work))


def layout(planned: Planned, machine: Machine) -> tuple[Work, Memory]:
    """The work in the fastest layout without offload, and the memory of that. Raises Skipped if none fits."""
    rows = plan_gpus(planned.work(gpus=1), machine, None).memory
    fitting = [row for row in rows if row.fits and not row.offload]
    if not fitting:
        least = min(rows, key=lambda row: row.total)
        raise Skipped(f"no layout fits {machine.name}, the smallest takes {size(least.total)}")
    memory = min(fitting, key=lambda row: (row.step_seconds or 0.0, row.zero))
    return planned.work(gpus=1, micro_batch=memory.micro_batch, stage=memory.zero), memory


def beside(work: Work, memory: Memory, measured: Calibration) -> list[Found]:
    """What a GPU's measurement says of the plan."""
    formula, reached = memory.total - memory.reserved, share_of_peak(work, measured)
    low, usual, high = MFU
    peak = Found(
        abs(measured.peak_bytes / formula - 1) <= PEAK,
        f"{size(measured.peak_bytes)}, micro-batch {memory.micro_batch}, ZeRO {memory.zero}",
        f"{size(formula)} by {PEAK:.0%}",
        "peak memory",
    )
    mfu = Found(
        low <= reached <= 1,
        f"{reached:.1%} of {measured.peak_flops / 1e12:,.0f} TFLOP/s",
        f"{usual:.0%} ({low:.0%} to {high:.0%}), not less than {low:.0%}",
        "MFU",
    )
    return [state_row(measured, memory), peak, mfu]


def state_row(measured: Calibration, memory: Memory) -> Found:
    expected = memory.parameters + memory.optimizer
    return Found(
        abs(measured.state_bytes / expected - 1) <= STATE,
        size(measured.state_bytes),
        f"{size(expected)} by {STATE:.0%}",
        "weights and optimizer",
    )


def measure(work: Work) -> Calibration:
    """A few steps through Ray Train, on a Ray of their own."""
    with tempfile.TemporaryDirectory(prefix="headwater-selftest-") as folder:
        store = Store(str(Path(folder) / "store"))
        with Session(store, logs_to=Path(folder)) as session:
            return calibrate(work.config, work.shape(), work.row_length, session)


def share_of_peak(work: Work, measured: Calibration) -> float:
    """MFU of a step, evaluations and checkpoints apart."""
    from headwater.llm.model.shape import flops_per_token

    flops = work.config.batch * work.row_length * flops_per_token(work.shape(), work.row_length)
    return flops / measured.step_seconds / measured.peak_flops


def this_gpu() -> Machine:
    """The first GPU: its own memory, and the peak against which MFU is measured."""
    import psutil  # type: ignore[import-untyped]
    import torch

    from headwater.llm.hardware.peak import peak
    from headwater.llm.hardware.precision import resolve_precision

    found = torch.cuda.get_device_properties(0)
    gpu = Gpu(
        memory_gb=found.total_memory / 1e9,
        peak_tflops=peak(resolve_precision("auto", 1), torch.device("cuda", 0)) / 1e12,
        bandwidth_gb_s=1.0,  # no figure of one GPU depends on it
        host_memory_gb=psutil.virtual_memory().total / 1e9,
        price_per_hour=0.0,
    )
    return Machine(1, found.name, gpu)


def size(count: float) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
