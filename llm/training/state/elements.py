"""Checkpoints that any number of workers, at any ZeRO stage, can resume from.

Every rank writes exactly the runs of elements it holds, flat, as `<parameter>/<kind>/<place>` in safetensors
files; a loading rank reads the bytes of the elements it holds, from whichever files have them, on a disk or
in S3. Nothing is gathered, so a checkpoint never needs more memory than training, and state written by two
workers loads on three, with or without tensor parallelism. `state.json` next to them has the step and the
trainer's own state.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.llm.model.files import stored
from headwater.llm.training.parallel import tensor
from headwater.llm.training.undocumented import deepspeed_internals as internals

if TYPE_CHECKING:
    import torch

    Read = Callable[[int, torch.Tensor], Any]
    """Writes the elements from a place on of a run into a flat tensor, as `origins.Origin.read`."""

STATE = "state.json"
FORMAT = 1
FILE_BYTES = 256 << 20  # a rank's tensors are collected in host memory up to about this size, then written
CHUNK = 1 << 20  # elements read at a time for some columns of a matrix

WEIGHTS = "weights"  # the fp32 master copy
AVERAGE = "average"  # its moving average, if enabled (llm/training/state/average.py)
MOMENTUM = "momentum_buffer"  # Muon's state
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's
LOSS_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")  # fp16, DeepSpeed's names


@dataclass(frozen=True)
class Place:
    """The location of a run in a parameter: consecutive elements, of all its columns or of some."""

    start: int  # index of the first element, counted within the run's columns
    first: int = 0  # first of these columns
    width: int = 0  # number of these columns
    columns: int = 0  # columns of the whole matrix; 0 if the run covers all columns

    def __str__(self) -> str:
        return f"{self.start}" + (f"@{self.first}+{self.width}:{self.columns}" if self.columns else "")

    @classmethod
    def parse(cls, text: str) -> Place:
        return cls(*map(int, re.split(r"[@+:]", text)))

    def blocks(self, length: int, columns: int) -> Iterator[Block]:
        """At most three blocks of a matrix of `columns` columns that a run of `length` elements covers."""
        first, width = (self.first, self.width) if self.columns else (0, columns)
        row, column = divmod(self.start, width)
        offset = min(width - column, length) if column else 0
        if offset:
            yield Block(row, 1, first + column, offset, 0)
            row += 1
        rows, rest = divmod(length - offset, width)
        if rows:
            yield Block(row, rows, first, width, offset)
        if rest:
            yield Block(row + rows, 1, first, rest, length - rest)


@dataclass(frozen=True)
class Block:
    """Rows and columns of a matrix, and where in a run their elements lie, concatenated."""

    row: int
    rows: int
    column: int
    columns: int
    offset: int


@dataclass
class Run:
    """Consecutive elements that this rank holds of a flattened parameter, or of its part of one."""

    parameter: str
    place: Place
    values: dict[str, torch.Tensor]
    """Kind → flat view into the engine's memory: writing to it sets the state. Valid until the next run."""
    written: bool = True
    """Whether this rank writes them, if several ranks hold the same."""
    model: torch.Tensor | None = None
    """The same elements of the model's own copy, if it can be set directly from the weights."""


def save(engine: Any, folder: Path, state: dict[str, Any]) -> None:
    """Write this rank's share of weights and optimizer state; rank 0 also writes `state` (JSON)."""
    write(pieces(engine), Artifact(str(folder)), own_state(engine, state))


def pieces(engine: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Copies of this rank's share in host memory, in dictionaries of about FILE_BYTES."""
    collected: dict[str, torch.Tensor] = {}
    size = 0
    for run in runs(engine):
        for kind, values in run.values.items() if run.written else ():
            held = values.detach().to("cpu", copy=True)
            collected[f"{run.parameter}/{kind}/{run.place}"] = held
            size += held.numel() * held.element_size()
        if size >= FILE_BYTES:
            yield collected
            collected, size = {}, 0
    if collected:
        yield collected


def own_state(engine: Any, state: dict[str, Any]) -> dict[str, Any]:
    """What is saved next to the tensors: `state` and the optimizer's counters."""
    return {
        "format": FORMAT,
        "optimizer_steps": max((int(s["step"]) for s in _optimizer_states(engine)), default=0),
        "loss_scale": {
            name: value for name, value in internals.loss_scale(engine).items() if name in LOSS_SCALE
        },
        "state": state,
    }


def write(share: Iterable[dict[str, torch.Tensor]], folder: Artifact, own: dict[str, Any]) -> int:
    """Write what `pieces` and `own_state` returned, each file atomically; returns the number of bytes.

    Uses neither engine nor process group: it can run in another thread than training.
    """
    import torch.distributed as dist

    rank, written = dist.get_rank(), 0
    for number, tensors in enumerate(share):
        with folder.create(f"rank-{rank:05d}-{number:05d}.safetensors") as stream:
            written += _write_tensors(tensors, stream)
    if rank == 0:
        text = json.dumps(own).encode()
        folder.write_bytes(STATE, text)
        written += len(text)
    return written


def _write_tensors(tensors: dict[str, torch.Tensor], stream: IO[bytes]) -> int:
    """Write the safetensors format directly from the tensors: the library would first copy all of them while
    holding the GIL that training needs."""
    import torch

    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
    sizes = {name: values.numel() * values.element_size() for name, values in tensors.items()}
    head = stored.header(
        {n: (names[values.dtype], (values.numel(),), sizes[n]) for n, values in tensors.items()}
    )
    stream.write(head)
    for values in tensors.values():
        stream.write(values.contiguous().view(torch.uint8).numpy().data)
    return len(head) + sum(sizes.values())


def load(engine: Any, folder: Path) -> dict[str, Any]:
    """Load what `save` wrote into a fresh engine, from any number of ranks; returns its `state`.

    All ranks must call it. Raises HeadwaterError if the files lack elements that this rank needs.
    """
    return read(engine, Artifact(str(folder)))


def read(engine: Any, folder: Artifact) -> dict[str, Any]:
    """As `load`, from a disk or S3. A rank reads the ranges of bytes that it needs."""
    if not folder.exists(STATE):
        raise HeadwaterError(
            f"the checkpoint has no {STATE}: another version of Headwater wrote it",
            where=folder.location,
            fix="delete `_scratch` in the unfinished artifact and run again",
        )
    own, pieces = folder.read_json(STATE), _Stored(folder)
    for run in runs(engine):
        for kind, values in run.values.items():
            pieces.read(run.parameter, kind, run.place, values)
        to_model(run)
    for state in _optimizer_states(engine):
        state["step"].fill_(own["optimizer_steps"])
    internals.loss_scale(engine).update(own["loss_scale"])
    spread_weights(engine)
    return dict(own["state"])


def to_model(run: Run) -> None:
    """Update the model's own copy of a run's elements from its weights, if this rank has it."""
    if run.model is not None:
        run.model.copy_(run.values[WEIGHTS])


def spread_weights(engine: Any) -> None:
    """Update model copies that need all ranks' weights; all ranks must call it."""
    if engine.zero_optimization_stage() in (1, 2):
        internals.copy_weights_to_model(engine)
    elif engine.zero_optimization_stage() == 3:
        internals.forget_gathered(engine)


class _Stored:
    """The files of a checkpoint, from which any elements of any parameter can be read."""

    def __init__(self, folder: Artifact) -> None:
        self.folder = folder
        self.pieces: dict[tuple[str, str], list[tuple[Place, int, Read]]] = defaultdict(list)
        for path in folder.files(suffix=".safetensors"):
            file = stored.TensorFile(folder.path(path))
            for name, (_, (length,), _) in file.tensors.items():
                parameter, kind, place = name.rsplit("/", 2)
                piece = Place.parse(place), length, stored.Stored(file, name).read
                self.pieces[parameter, kind].append(piece)

    def read(self, parameter: str, kind: str, place: Place, into: torch.Tensor) -> None:
        """Fill `into` with the elements at `place`."""
        pieces = self.pieces[parameter, kind]
        found = sum(copy_overlap(piece, length, at, into, place) for at, length, piece in pieces)
        if found != into.numel():
            raise HeadwaterError(
                f"only {found} of {into.numel()} elements of {parameter} ({kind}) from {place} on are stored",
                where=self.folder.location,
                fix="delete `_scratch` in the unfinished artifact and run again",
            )


def copy_overlap(read: Read, length: int, at: Place, into: torch.Tensor, place: Place) -> int:
    """Copy the overlap of a run of `length` elements, which `read` reads, and a wanted one; returns the
    number of elements."""
    columns = at.columns or place.columns or max(at.start + length, place.start + into.numel())
    found = 0
    for here in at.blocks(length, columns):
        for there in place.blocks(into.numel(), columns):
            top, bottom = max(here.row, there.row), min(here.row + here.rows, there.row + there.rows)
            left = max(here.column, there.column)
            right = min(here.column + here.columns, there.column + there.columns)
            if top >= bottom or left >= right:
                continue
            begin = here.offset + (top - here.row) * here.columns + left - here.column
            wanted = into.narrow(0, there.offset, there.rows * there.columns).view(there.rows, there.columns)
            wanted = wanted[top - there.row : bottom - there.row, left - there.column : right - there.column]
            _read_block(read, begin, here.columns, wanted)
            found += wanted.numel()
    return found


def _read_block(read: Read, begin: int, stride: int, into: torch.Tensor) -> None:
    """A matrix whose rows begin `stride` elements apart, the first at `begin`."""
    rows, columns = into.shape
    if rows == 1 or (columns == stride and into.is_contiguous()):
        read(begin, into.reshape(-1))
        return
    step = max(1, CHUNK // stride)
    for first in range(0, rows, step):
        part = into[first : first + step]
        held = part.new_empty(len(part) * stride - (stride - columns))
        read(begin + first * stride, held)
        part.copy_(held.as_strided((len(part), columns), (stride, 1)))


def runs(engine: Any) -> Iterator[Run]:
    """All runs of this rank. State that an optimizer creates at its first step is included, as zeros."""
    held = (_replicated, _partitioned_groups, _partitioned_groups, _partitioned_parameters)
    average = getattr(engine, "average", None)
    among, _ = tensor.rank_and_size(engine)
    for run in held[engine.zero_optimization_stage()](engine):
        if among and tensor.dim_of(run.parameter) is None:
            run.written = False  # the group's first rank writes what all its ranks have
        if average is not None and WEIGHTS in run.values:
            run.values[AVERAGE] = average.values[run.parameter, run.place]
        yield run


def _place(engine: Any, parameter: Any, start: int) -> Place:
    """The place of the elements from `start` on in this worker's whole parameter or part of a matrix."""
    dim, (rank, size) = (
        tensor.dim_of(internals.name_of(engine, parameter)),
        tensor.rank_and_size(engine),
    )
    if dim is None or size == 1:
        return Place(start)
    rows, columns = internals.whole_shape(parameter)
    if dim == 0:
        return Place(start + rank * rows * columns)
    return Place(start, rank * columns, columns, size * columns)


def _shard_rank(engine: Any) -> tuple[int, int]:
    """This worker's rank among those that shard the same state, and their number."""
    import torch.distributed as dist

    group = internals.sharding_group(engine)
    return dist.get_rank(group), dist.get_world_size(group)


def _replicated(engine: Any) -> Iterator[Run]:
    """ZeRO 0: every rank holds everything; ranks take turns in writing."""
    rank, ranks = _shard_rank(engine)
    turns = itertools.cycle(range(ranks))
    for (parameter, weights), turn in zip(internals.replicated(engine), turns, strict=False):
        state = _state(engine, weights, parameter)
        yield Run(
            internals.name_of(engine, parameter),
            _place(engine, parameter, 0),
            {WEIGHTS: weights.data.view(-1)} | {kind: state[kind].view(-1) for kind in _kinds(parameter)},
            written=turn == rank,
            model=parameter.data.view(-1),
        )


def _partitioned_groups(engine: Any) -> Iterator[Run]:
    """ZeRO 1 and 2: each parameter group is one flat vector, of which a rank holds one stretch.

    Muon needs whole matrices: there a rank has the momentum of every matrix that its stretch touches,
    concatenated; the rank with a matrix's first element writes it.
    """
    for group, flat, touched in internals.flat_groups(engine):
        whole = internals.uses_muon(group[0]) and internals.whole_momenta(engine)
        state = _state(engine, flat, group[0], sum(p.numel() for p in touched) if whole else None)
        for parameter in group:
            here = internals.fragment(parameter)
            if here is None:
                continue
            kinds = () if whole else _kinds(parameter)
            held = {WEIGHTS: flat.data} | {kind: state[kind] for kind in kinds}
            values = {kind: vector.narrow(0, here.in_stretch, here.size) for kind, vector in held.items()}
            name = internals.name_of(engine, parameter)
            yield Run(name, _place(engine, parameter, here.in_parameter), values)
        offset = 0
        for parameter in touched if whole else ():
            momentum = state[MOMENTUM].narrow(0, offset, parameter.numel())
            here, name = (
                internals.fragment(parameter),
                internals.name_of(engine, parameter),
            )
            first = here is not None and here.in_parameter == 0
            yield Run(name, Place(0), {MOMENTUM: momentum}, written=first)
            offset += parameter.numel()


def _partitioned_parameters(engine: Any) -> Iterator[Run]:
    """ZeRO 3: each parameter is split into equal parts; the last ones are padded."""
    for index, group in enumerate(internals.partitioned_groups(engine)):
        with internals.partitioned_weights(engine, index) as flat:
            state = _state(engine, flat, group[0])
            offset = 0
            for parameter in group:
                part = internals.part(parameter)
                if part.inside > 0:
                    held = {WEIGHTS: flat.data} | {kind: state[kind] for kind in _kinds(parameter)}
                    yield Run(
                        internals.name_of(engine, parameter),
                        _place(engine, parameter, part.start),
                        {kind: vector.narrow(0, offset, part.inside) for kind, vector in held.items()},
                        model=part.values.narrow(0, 0, part.inside),
                    )
                offset += part.size


def _kinds(parameter: Any) -> tuple[str, ...]:
    return (MOMENTUM,) if internals.uses_muon(parameter) else MOMENTS


def _state(engine: Any, weights: torch.Tensor, parameter: Any, elements: int | None = None) -> dict[str, Any]:
    """The optimizer's state of a tensor; `elements` if it is not one per weight."""
    import torch

    state: dict[str, Any] = internals.inner_optimizer(engine).state[weights]
    for kind in _kinds(parameter):
        if kind not in state:
            blank = torch.zeros_like(weights) if elements is None else weights.new_zeros(elements)
            state[kind] = blank.detach()
    if not internals.uses_muon(parameter) and "step" not in state:
        state["step"] = torch.zeros((), dtype=torch.float32)
    return state


def _optimizer_states(engine: Any) -> list[dict[str, Any]]:
    """The states with a step counter (for AdamW's bias correction)."""
    return [state for state in internals.inner_optimizer(engine).state.values() if "step" in state]
