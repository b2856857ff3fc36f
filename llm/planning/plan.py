"""What a pretraining will take: memory, time, tokens, money, and the expected loss.

Memory is by formula (`planning.layouts`). Time is measured on this machine (`planning.calibrate`); for other
GPUs it is computed (`planning.step_time`) with an assumed share of the peak, and the plan says so. The loss
comes from a law fitted to small runs (`planning.scaling`), or is omitted. A layout that no worker can hold is
refused.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel

from headwater.llm.hardware import machines
from headwater.llm.hardware.machines import Machine
from headwater.llm.hardware.precision import resolve_precision
from headwater.llm.model.shape import flops_per_token, hf_config, parameter_count, shape_of
from headwater.llm.planning.calibrate import Calibration
from headwater.llm.planning.layouts import PROCESS_BYTES, Memory, Parts, Room, shortage
from headwater.llm.planning.scaling_law import FittedLaw
from headwater.llm.planning.step_time import step_time
from headwater.llm.rows.sizes import BatchStage, Span
from headwater.llm.stages.pretrain import PretrainConfig
from headwater.llm.training.zero_config import ZeroConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

START_SECONDS = 90.0
"""Assumed startup on GPU nodes, to the first step: processes, libraries, NCCL, kernels."""
RESERVED_BYTES, RESERVED_SHARE = 2.0e9, 0.05
"""Assumed overhead of a GPU: CUDA context and NCCL buffers in bytes; share lost to fragmentation."""
SHORT_PASS = 0.02
"""Seconds of a micro-batch, at the assumed speed, below which a GPU waits for kernel launches."""
EXCHANGE = ("bucket_elements", "grad_accum_dtype", "communication_data_type")
"""Settings of `zero` that every row has from the recipe."""
GPU_ROWS = ((0, False), (1, False), (2, False), (3, False), (2, True), (3, True))
"""The rows of a GPU plan: ZeRO stage, and whether the optimizer is offloaded to the host."""


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
        return self.config.sizes().before(self.config.steps) * self.row_length

    def parameters(self) -> int:
        return parameter_count(shape_of(self.config.model, self.vocab_size))

    def shape(self) -> PreTrainedConfig:
        special = cast("Any", SimpleNamespace(eos_token_id=0, pad_token_id=0))  # no result depends on them
        return hf_config(self.config.model, self.vocab_size, special)


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
    batch_stages: tuple[BatchStage, ...] = ()
    """Other batches before the usual one."""
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
    """Of a step with the usual batch and rows."""
    seconds: float | None
    seconds_low: float | None = None
    seconds_high: float | None = None
    dollars: float | None = None
    dollars_low: float | None = None
    dollars_high: float | None = None
    loss: Loss | None
    refused: str = ""
    """Why no worker can hold it, with the figures; empty if it fits, or the memory is not known."""
    would_fit: list[str] = []
    """Changes of the settings with which it would fit."""
    notes: list[str]


def plan_here(
    work: Work, measured: Calibration | None, law: FittedLaw | None, room: Room | None = None
) -> Plan:
    """Plan for this machine (or a joined cluster), with the recipe's workers, ZeRO stage and micro-batch.

    `room` is the memory available to each worker, if known.
    """
    config, shape, room = work.config, work.shape(), room or Room()
    precision = resolve_precision(config.precision, config.gpus_per_worker)
    on_gpus = bool(config.gpus_per_worker)
    parts = Parts.of(config, shape, work.row_length, precision, on_gpus=on_gpus)
    notes = []
    reserved = PROCESS_BYTES
    if measured is None:
        notes.append(
            "Not measured on this machine: no time; libraries are assumed to take 0.5 GB per worker."
        )
    else:
        as_said = parts.memory(config.zero, config.workers, config.micro_batch, 0, Room())
        reserved = max(0.0, measured.peak_bytes - as_said.total)
    table = [
        parts.memory(
            config.zero.model_copy(update={"stage": stage}),
            config.workers,
            config.micro_batch,
            reserved,
            room,
        )
        for stage in range(4)
    ]
    chosen, gpus = table[config.zero.stage], config.gpus_per_worker
    each = f"{gpus:g} GPUs" if gpus else f"{config.cpus_per_worker:g} CPUs"
    if measured and not work.validation_rows:
        notes.append("The corpus is not tokenized yet: the time excludes evaluations.")
    if measured:
        notes += _stages(config, [*measured.stage_seconds, measured.step_seconds])
    refused = shortage(chosen, room, on_gpus=on_gpus)
    layout = config.zero, config.workers, config.micro_batch, reserved, room
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
        refused=refused,
        would_fit=parts.would_fit(*layout) if refused else [],
        law=law,
        notes=notes,
    )


def plan_gpus(work: Work, machine: Machine, law: FittedLaw | None, mfu: float | None = None) -> Plan:
    """Plan for GPUs, one per worker: the ZeRO stage with the fastest step, each with its largest micro-batch.

    `mfu` is the share of the peak that the passes reach, without exchange and offload.
    """
    config, shape = work.config, work.shape()
    precision = "bf16" if config.precision == "auto" else config.precision
    parts = Parts.of(config, shape, work.row_length, precision, on_gpus=True)
    usual, share = config.spans()[-1], max(1, -(-config.batch // machine.count))
    room = Room(machine.gpu.memory_gb * 1e9, machine.gpu.host_memory_gb * 1e9)
    reserved = RESERVED_BYTES + RESERVED_SHARE * machine.gpu.memory_gb * 1e9
    shares = (mfu, mfu, mfu) if mfu else machines.MFU
    row_flops = work.row_length * flops_per_token(shape, work.row_length)

    def seconds(row: Memory, part: float, span: Span = usual) -> float:
        """Of a step. Every GPU waits for the one with the largest share of the batch."""
        rows = max(1, -(-span.batch // machine.count))
        return step_time(
            machine,
            parameters=parameter_count(shape),
            precision=precision,
            stage=row.zero,
            offload=row.offload,
            accumulation=-(-rows // max(1, row.micro_batch)),
            flops=rows * work.row_length * flops_per_token(shape, span.row_length or work.row_length),
            mfu=part,
            gradients=config.zero.gradient_types(precision, config.optimizer).sent,
        ).seconds

    table = []
    for stage, offload in GPU_ROWS:
        keys = {name: getattr(config.zero, name) for name in EXCHANGE}
        keys |= {"stage": stage, "offload_optimizer": offload}
        if stage < 2 and config.zero.grad_accum_dtype == "fp32":
            keys["grad_accum_dtype"] = "auto"
        row = parts.largest(ZeroConfig.model_validate(keys), machine.count, share, reserved, room)
        took = seconds(row, shares[1])
        reached = share * row_flops / (1e12 * machine.gpu.peak_tflops * took)
        table.append(row.model_copy(update={"step_seconds": took, "mfu": reached}))
    notes = []
    chosen = min(table, key=lambda row: (not row.fits, row.step_seconds, -row.micro_batch, row.zero))
    refused, would_fit = "", []
    if not chosen.fits:
        chosen = min(table, key=lambda row: (row.total, row.zero))
        one = parts.memory(_sharded(config), machine.count, 1, reserved, room)
        would_fit = parts.would_fit(_sharded(config), machine.count, 1, reserved, room)
        refused = shortage(one, room, on_gpus=True)
        notes.append(f"Not even one row fits a {machine.name} at any ZeRO stage.")
    if config.batch % machine.count:
        notes.append(
            f"{machine.count} GPUs share a batch of {config.batch} rows unevenly: "
            "the largest share sets the time."
        )
    low, expected, high = (
        START_SECONDS + sum(span.steps * seconds(chosen, part, span) for span in config.spans())
        for part in reversed(shares)
    )
    notes += _stages(config, [seconds(chosen, shares[1], span) for span in config.spans()])
    price = machine.dollars_per_hour / 3600
    speed = machine.gpu.peak_tflops * 1e12 * shares[1]
    pass_seconds = max(1, chosen.micro_batch) * row_flops / speed
    if pass_seconds < SHORT_PASS:
        notes.append(
            f"A micro-batch is {1e3 * pass_seconds:.2g} ms of work for a {machine.name}: it will wait for "
            "kernels to be launched; time and price are lower bounds. Fewer GPUs, or a larger `batch`."
        )
    notes.append(
        f"Time: passes at {shares[1]:.0%} of the peak "
        + ("as given" if mfu else f"assumed ({shares[0]:.0%} and {shares[2]:.0%} in the bounds)")
        + f", then exchange ({chosen.mfu:.0%} of the peak with it), {START_SECONDS:.0f} s of startup; "
        "evaluations and checkpoints are excluded."
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
        step_seconds=chosen.step_seconds,
        seconds=expected,
        seconds_low=low,
        seconds_high=high,
        dollars=price * expected,
        dollars_low=price * low,
        dollars_high=price * high,
        refused=refused,
        would_fit=would_fit,
        law=law,
        notes=notes,
    )


def _stages(config: PretrainConfig, seconds: list[float]) -> list[str]:
    """Lines on the stages of batches, from the seconds of a step in each and in the usual ones."""
    lines, first = [], 0
    for span, took in list(zip(config.spans(), seconds, strict=True))[:-1]:
        cut = f" cut to {span.row_length} tokens" if span.row_length else ""
        if span.steps:
            steps = f"Steps {first} to {first + span.steps - 1}"
            lines.append(f"{steps} have {span.batch} rows{cut}: {took:.4f} s per step.")
        first += span.steps
    return lines


def _sharded(config: PretrainConfig) -> ZeroConfig:
    return config.zero.model_copy(update={"stage": 3})


def _plan(
    work: Work,
    shape: PreTrainedConfig,
    chosen: Memory,
    law: FittedLaw | None,
    notes: list[str],
    **figures: Any,
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
        batch_stages=work.config.batch_stages,
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
