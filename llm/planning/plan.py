"""What a pretraining will take: memory, time, tokens, money, and the expected loss.

Memory is by formula (`planning.memory`, `planning.activations`). Time is measured on this machine
(`planning.calibrate`); for other GPUs it is FLOPs over an assumed share of the peak, and the plan says so.
The loss comes from a law fitted to small runs (`planning.scaling`), or is omitted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel

from headwater.llm.hardware import machines
from headwater.llm.hardware.machines import Machine
from headwater.llm.hardware.precision import resolve_precision
from headwater.llm.model.build import initialise
from headwater.llm.model.shape import (
    Weight,
    flops_per_token,
    hf_config,
    parameter_count,
    shape_of,
    weights_of,
)
from headwater.llm.planning.activations import Activations, Pass, activations
from headwater.llm.planning.calibrate import Calibration
from headwater.llm.planning.memory import ELEMENT_BYTES, FP32, largest_state
from headwater.llm.planning.scaling_law import FittedLaw
from headwater.llm.stages.pretrain import PretrainConfig
from headwater.llm.training.parallel import tensor
from headwater.llm.training.zero_config import ZeroConfig

if TYPE_CHECKING:
    from transformers import Qwen3Config

START_SECONDS = 90.0
"""Assumed startup on GPU nodes, to the first step: processes, libraries, NCCL, kernels."""
RESERVED_BYTES, RESERVED_SHARE = 2.0e9, 0.05
"""Assumed overhead of a GPU: CUDA context and NCCL buffers in bytes; share lost to fragmentation."""
SHORT_PASS = 0.02
"""Seconds of a micro-batch, at the assumed speed, below which a GPU waits for kernel launches."""
GPU_ROWS = ((0, False), (1, False), (2, False), (3, False), (2, True), (3, True))
"""The rows of a GPU plan: ZeRO stage, and whether the optimizer is offloaded to the host."""
PROCESS_BYTES = 0.5e9
"""Assumed memory of a CPU worker's libraries, if not measured."""


@dataclass(frozen=True)
class Work:
    """The parts of a recipe that a pretraining plan depends on."""

    name: str
    config: PretrainConfig
    vocab_size: int
    row_length: int
    validation_rows: int = 0

    @property
    def tokens(self) -> int:
        return self.config.steps * self.config.batch * self.row_length

    def parameters(self) -> int:
        return parameter_count(shape_of(self.config.model, self.vocab_size))

    def shape(self) -> Qwen3Config:
        special = cast("Any", SimpleNamespace(eos_token_id=0, pad_token_id=0))  # no result depends on them
        return hf_config(self.config.model, self.vocab_size, special)


class Memory(BaseModel):
    """Memory of one worker at one ZeRO stage, in bytes."""

    zero: int
    offload: bool
    micro_batch: int
    """Rows that fit; 0 if not even one does."""
    parameters: int
    gradients: int
    optimizer: int
    host: int
    """The part of gradients and optimizer state in host memory."""
    working: int
    """The larger of: activations of the micro-batch plus communication buffers, the optimizer's step."""
    reserved: int
    """Libraries, contexts and similar overhead."""
    total: int
    """Total on the device."""
    fits: bool


class Loss(BaseModel):
    """Bits per byte of the validation text, as the fitted law predicts."""

    mean: float
    low: float
    high: float
    reach: float
    """FLOPs of this run relative to the largest small run."""
    runs: int


class Plan(BaseModel):
    """The complete plan, as printed by `headwater plan --json`."""

    recipe: str
    target: str
    precision: str
    optimizer: str
    depth: int
    width: int
    parameters: int
    flops_per_token: int
    row_length: int
    batch: int
    steps: int
    tokens: int
    tokens_per_parameter: float
    workers: int
    zero: int
    micro_batch: int
    accumulation: int
    memory: list[Memory]
    state_bytes: int
    """Parameters and optimizer state of the worker that holds most, at this ZeRO stage."""
    peak_bytes: int
    step_seconds: float | None
    seconds: float | None
    seconds_low: float | None = None
    seconds_high: float | None = None
    dollars: float | None = None
    dollars_low: float | None = None
    dollars_high: float | None = None
    loss: Loss | None
    notes: list[str]


def plan_here(
    work: Work, measured: Calibration | None, law: FittedLaw | None, device_bytes: float | None = None
) -> Plan:
    """Plan for this machine (or a joined cluster), with the recipe's workers, ZeRO stage and micro-batch.

    `device_bytes` is the memory available to each worker, if known.
    """
    config, shape = work.config, work.shape()
    precision = resolve_precision(config.precision, config.gpus_per_worker)
    parts = _Parts.of(work, shape, precision, on_gpus=bool(config.gpus_per_worker))
    notes = []
    reserved = PROCESS_BYTES
    if measured is None:
        notes.append(
            "Not measured on this machine: no time; libraries are assumed to take 0.5 GB per worker."
        )
    else:
        as_said = parts.memory(config.zero, config.workers, config.micro_batch, 0, None)
        reserved = max(0.0, measured.peak_bytes - as_said.total)
    table = [
        parts.memory(
            config.zero.model_copy(update={"stage": stage}),
            config.workers,
            config.micro_batch,
            reserved,
            device_bytes,
        )
        for stage in range(4)
    ]
    chosen, gpus = table[config.zero.stage], config.gpus_per_worker
    each = f"{gpus:g} GPUs" if gpus else f"{config.cpus_per_worker:g} CPUs"
    if measured and not work.validation_rows:
        notes.append("The corpus is not tokenized yet: the time excludes evaluations.")
    return _plan(
        work,
        shape,
        target=f"{config.workers} workers with {each}",
        precision=precision,
        workers=config.workers,
        memory=table,
        chosen=chosen,
        peak_bytes=measured.peak_bytes if measured else chosen.total,
        step_seconds=measured.step_seconds if measured else None,
        seconds=measured.seconds(config, work.validation_rows) if measured else None,
        law=law,
        notes=notes,
    )


def plan_gpus(work: Work, machine: Machine, law: FittedLaw | None, mfu: float | None = None) -> Plan:
    """Plan for GPUs, one per worker: the lowest ZeRO stage that fits the largest micro-batch."""
    config, shape = work.config, work.shape()
    precision = "bf16" if config.precision == "auto" else config.precision
    parts = _Parts.of(work, shape, precision, on_gpus=True)
    share = max(1, -(-config.batch // machine.count))
    device = machine.gpu.memory_gb * 1e9
    reserved = RESERVED_BYTES + RESERVED_SHARE * device
    table = []
    for stage, offload in GPU_ROWS:
        keys = {"stage": stage, "offload_optimizer": offload, "bucket_elements": config.zero.bucket_elements}
        zero = ZeroConfig.model_validate(keys)
        table.append(parts.largest(zero, machine.count, share, reserved, device))
    notes = []
    chosen = max(table, key=lambda row: (row.fits, row.micro_batch, not row.offload, -row.zero))
    if not chosen.fits:
        notes.append(
            f"Not even one row fits a {machine.name} at any ZeRO stage: use more GPUs or a smaller model."
        )
    if config.batch % machine.count:
        notes.append(
            f"{machine.count} GPUs share a batch of {config.batch} rows unevenly: "
            "the largest share sets the time."
        )
    shares = (mfu, mfu, mfu) if mfu else machines.MFU
    # Every GPU waits for the one with the largest share of the batch.
    row_flops = work.row_length * flops_per_token(shape, work.row_length)
    step_flops = share * machine.count * row_flops
    low, usual, high = (
        START_SECONDS + config.steps * step_flops / (machine.peak_flops * part) for part in reversed(shares)
    )
    price = machine.dollars_per_hour / 3600
    speed = machine.gpu.peak_tflops * 1e12 * shares[1]
    pass_seconds = max(1, chosen.micro_batch) * row_flops / speed
    if pass_seconds < SHORT_PASS:
        notes.append(
            f"A micro-batch is {1e3 * pass_seconds:.2g} ms of work for a {machine.name}: it will wait for "
            "kernels to be launched; time and price are lower bounds. Fewer GPUs, or a larger `batch`."
        )
    notes.append(
        f"Time: {shares[1]:.0%} of the peak "
        + ("as given" if mfu else f"assumed ({shares[0]:.0%} and {shares[2]:.0%} in the bounds)")
        + f", {START_SECONDS:.0f} s of startup; evaluations and checkpoints are excluded."
    )
    return _plan(
        work,
        shape,
        target=f"{machine.count}x{machine.name}",
        precision=precision,
        workers=machine.count,
        memory=table,
        chosen=chosen,
        peak_bytes=chosen.total,
        step_seconds=share * row_flops / speed,
        seconds=usual,
        seconds_low=low,
        seconds_high=high,
        dollars=price * usual,
        dollars_low=price * low,
        dollars_high=price * high,
        law=law,
        notes=notes,
    )


@dataclass(frozen=True)
class _Parts:
    """The parts of a worker's memory, for any stage and number of workers."""

    weights: list[Weight]
    passes: Activations
    precision: str
    config: PretrainConfig
    on_gpus: bool

    @classmethod
    def of(cls, work: Work, shape: Qwen3Config, precision: str, *, on_gpus: bool) -> _Parts:
        import torch

        with torch.device("meta"):
            weights = tensor.cut(weights_of(initialise(shape, 0)), work.config.tensor_parallel)
        config = work.config
        how = Pass(on_gpus, config.activation_checkpointing, config.separate_documents, config.z_loss)
        length = work.row_length // config.sequence_parallel_size()  # tokens of a row on one worker
        passes = activations(shape, length, precision, how)
        return cls(weights, passes, precision, work.config, on_gpus)

    def memory(
        self, zero: ZeroConfig, workers: int, rows: int, reserved: float, device: float | None
    ) -> Memory:
        workers = max(1, workers // self.config.tensor_parallel)  # that shard the same state
        state = largest_state(
            self.weights,
            zero,
            world_size=workers,
            precision=self.precision,
            optimizer=self.config.optimizer,
        )
        size = sum(weight.size for weight in self.weights)
        bucket = zero.bucket_elements if zero.stage and self.on_gpus else 0  # never fully touched on CPUs
        exchanged = ELEMENT_BYTES[self.precision] * bucket * (2 if zero.stage == 3 else 1)
        stepping = FP32 * size // (workers if zero.stage else 1) if not state.host else 0
        working = max(self.passes.of(rows) + exchanged, stepping) if rows else exchanged
        held = state.device if self.on_gpus else state.total  # for CPU workers the device is the host
        total = held + working + round(reserved)
        return Memory(
            zero=zero.stage,
            offload=bool(state.host),
            micro_batch=rows,
            **asdict(state),
            working=working,
            reserved=round(reserved),
            total=total,
            fits=device is None or (total <= device and rows > 0),
        )

    def largest(self, zero: ZeroConfig, workers: int, most: int, reserved: float, device: float) -> Memory:
        """Memory with the largest micro-batch that fits: a power of two, or all `most` rows of a share."""
        room = device - self.memory(zero, workers, 0, reserved, device).total
        rows = min(most, self.passes.most_rows(round(room)))
        if 0 < rows < most:
            rows = 1 << (rows.bit_length() - 1)
        return self.memory(zero, workers, rows, reserved, device)


def _plan(
    work: Work, shape: Qwen3Config, chosen: Memory, law: FittedLaw | None, notes: list[str], **figures: Any
) -> Plan:
    """The plan with the row `chosen` of its memory table."""
    parameters, micro_batch = parameter_count(shape), max(1, chosen.micro_batch)
    loss = predicted(law, parameters, work.tokens)
    if loss is None:
        notes = [*notes, "No expected loss: run `headwater scaling RECIPE` to fit the law from small runs."]
    largest_share = -(-work.config.batch // figures["workers"])
    return Plan(
        recipe=work.name,
        optimizer=work.config.optimizer,
        depth=work.config.model.depth,
        width=work.config.model.resolved_width(),
        parameters=parameters,
        flops_per_token=flops_per_token(shape, work.row_length),
        row_length=work.row_length,
        batch=work.config.batch,
        steps=work.config.steps,
        tokens=work.tokens,
        tokens_per_parameter=work.tokens / parameters,
        zero=chosen.zero,
        micro_batch=micro_batch,
        accumulation=-(-largest_share // micro_batch),
        state_bytes=chosen.parameters + chosen.optimizer,
        loss=loss,
        notes=notes,
        **figures,
    )


def predicted(law: FittedLaw | None, parameters: int, tokens: int) -> Loss | None:
    if law is None:
        return None
    found = asdict(law.predict(parameters, tokens))
    return Loss(**found, reach=law.reach(parameters, tokens), runs=len(law.points))
