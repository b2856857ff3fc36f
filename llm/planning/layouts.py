"""Memory of one worker in a layout (ZeRO stage, offload, workers, micro-batch), and which would fit."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel

from headwater.llm.model.shape import Weight, weights_of
from headwater.llm.planning.activations import Activations, Pass, activations
from headwater.llm.planning.memory import ELEMENT_BYTES, FP32, largest_state
from headwater.llm.planning.peaks import building_bytes, exporting_bytes, saving_bytes
from headwater.llm.stages.pretrain import PretrainConfig
from headwater.llm.training.parallel import tensor
from headwater.llm.training.zero_config import ZeroConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

PROCESS_BYTES = 0.5e9
"""Assumed memory of a worker's libraries in host memory, if not measured."""
MOST_WORKERS = 4096
"""Larger numbers are not suggested."""


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
    """The part of the state in host memory."""
    working: int
    """The larger of: activations of the micro-batch plus communication buffers, the optimizer's step."""
    building: int
    """Host memory while the model is built, before the rest."""
    saving: int
    """Host memory of the copy of a checkpoint, or of the largest layer in the export."""
    reserved: int
    """Libraries, contexts and similar overhead."""
    total: int
    """The peak on the device; for a CPU worker that is its host."""
    host_total: int
    """The peak in host memory."""
    fits: bool
    step_seconds: float | None = None
    """Of the whole step in this layout (`planning.step_time`), on GPUs."""
    mfu: float | None = None
    """Share of the peak FLOP/s over the whole step."""


@dataclass(frozen=True)
class Room:
    """Memory of one worker, in bytes; None if it is not known."""

    device: float | None = None
    host: float | None = None


@dataclass(frozen=True)
class Parts:
    """The parts of a worker's memory, for any stage and number of workers."""

    weights: list[Weight]
    """Of one worker of a group that shares layers."""
    whole: list[Weight]
    passes: Activations
    precision: str
    config: PretrainConfig
    on_gpus: bool

    @classmethod
    def of(
        cls,
        config: PretrainConfig,
        shape: PreTrainedConfig,
        row_length: int,
        precision: str,
        *,
        on_gpus: bool,
    ) -> Parts:
        from headwater.llm.model.origins import fresh

        whole = weights_of(fresh(shape, 0))
        how = Pass(on_gpus, config.activation_checkpointing, config.separate_documents, config.z_loss)
        length = row_length // config.sequence_parallel_size()  # tokens of a row on one worker
        passes = activations(shape, length, precision, how)
        return cls(tensor.cut(whole, config.tensor_parallel), whole, passes, precision, config, on_gpus)

    def memory(self, zero: ZeroConfig, workers: int, rows: int, reserved: float, room: Room) -> Memory:
        workers = max(1, workers // self.config.tensor_parallel)  # that shard the same state
        optimizer = self.config.optimizer
        state = largest_state(
            self.weights, zero, world_size=workers, precision=self.precision, optimizer=optimizer
        )
        size = sum(weight.size for weight in self.weights)
        bucket = zero.bucket_elements if zero.stage and self.on_gpus else 0  # never fully touched on CPUs
        sent = zero.gradient_types(self.precision, optimizer).sent
        buffers = 2 if zero.stage == 3 or zero.overlaps(1) else 1
        cast = 0 if sent == self.precision else ELEMENT_BYTES[sent]
        exchanged = bucket * (buffers * ELEMENT_BYTES[self.precision] + cast)
        stepping = FP32 * size // (workers if zero.stage else 1) if not state.host else 0
        working = max(self.passes.of(rows) + exchanged, stepping) if rows else exchanged
        building = building_bytes(self.whole, zero, workers)
        saving = exporting_bytes(self.weights)
        if self.config.background_checkpoints:
            saving = max(saving, saving_bytes(self.weights, optimizer, workers))
        if self.on_gpus:
            total = state.device + working + round(reserved)
            host_total = max(building, state.host + saving) + round(PROCESS_BYTES)
        else:
            total = host_total = max(building, state.total + working + saving) + round(reserved)
        return Memory(
            zero=zero.stage,
            offload=bool(state.host),
            micro_batch=rows,
            **asdict(state),
            working=working,
            building=building,
            saving=saving,
            reserved=round(reserved),
            total=total,
            host_total=host_total,
            fits=(room.device is None or (total <= room.device and rows > 0))
            and (room.host is None or host_total <= room.host),
        )

    def largest(self, zero: ZeroConfig, workers: int, most: int, reserved: float, room: Room) -> Memory:
        """Memory with the largest micro-batch that fits: a power of two, or all `most` rows of a share."""
        assert room.device is not None
        left = room.device - self.memory(zero, workers, 0, reserved, room).total
        rows = min(most, self.passes.most_rows(round(left)))
        if 0 < rows < most:
            rows = 1 << (rows.bit_length() - 1)
        return self.memory(zero, workers, rows, reserved, room)

    def would_fit(self, zero: ZeroConfig, workers: int, rows: int, reserved: float, room: Room) -> list[str]:
        """Two ways for a layout that does not fit: the smallest change of settings, and more workers."""
        fitting = (
            text
            for text, parts, changed, fewer in self._changes(zero, rows)
            if parts.memory(changed, workers, fewer, reserved, room).fits
        )
        found = list(itertools.islice(fitting, 1))
        sharded = zero.model_copy(update={"stage": 3})
        more = workers
        while (more := 2 * more) <= MOST_WORKERS:
            if self.memory(sharded, more, rows, reserved, room).fits:
                found.append(f"{more} such workers with `zero.stage: 3`")
                break
        return found

    def _changes(self, zero: ZeroConfig, rows: int) -> Iterator[tuple[str, Parts, ZeroConfig, int]]:
        plain = self.config.model_copy(update={"background_checkpoints": False})
        unsaved = dataclasses.replace(self, config=plain)
        yield "`micro_batch: 1`", self, zero, 1
        yield "`background_checkpoints: false`", unsaved, zero, rows
        sharded = zero.model_copy(update={"stage": 3})
        yield "`zero.stage: 3`", self, sharded, rows
        yield "`zero.stage: 3` with `micro_batch: 1` and `background_checkpoints: false`", unsaved, sharded, 1
        if self.on_gpus:
            offloaded = sharded.model_copy(update={"offload_optimizer": "cpu"})
            yield "`zero.stage: 3` with `zero.offload_optimizer: cpu`", self, offloaded, rows
            offloaded = offloaded.model_copy(update={"offload_parameters": "cpu"})
            text = (
                "`zero.stage: 3` with `offload_optimizer: cpu`, `offload_parameters: cpu`, `micro_batch: 1`"
            )
            yield f"{text} and `background_checkpoints: false`", unsaved, offloaded, 1


def shortage(memory: Memory, room: Room, *, on_gpus: bool) -> str:
    """Why a layout does not fit, with the figures; empty if it does."""
    if memory.fits:
        return ""
    if room.device is not None and (memory.total > room.device or not memory.micro_batch):
        built = not on_gpus and memory.building + memory.reserved == memory.total
        moment = "while the model is built" if built else "in a step"
        needed = _gb(memory.total) if memory.micro_batch else f"more than {_gb(memory.total)}"
        where = "of its device" if on_gpus else "of memory"
        return f"a worker needs {needed} {moment} at ZeRO {memory.zero} and has {_gb(room.device)} {where}"
    assert room.host is not None
    moment = (
        "while the model is built" if memory.building >= memory.host + memory.saving else "with checkpoints"
    )
    needed = f"{_gb(memory.host_total)} of host memory {moment}"
    return f"a worker needs {needed} at ZeRO {memory.zero} and has {_gb(room.host)}"


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e10 else f"{size / 1e9:.3f} GB"
