"""Export: the trained model as a Hugging Face folder, written parameter by parameter.

Rank 0 writes. It gets the fp32 weights in parts from the ranks that have them, so that no rank needs memory
for more than a part, or with adapters for one parameter.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.cluster.storage.artifact import SCRATCH
from headwater.data_pipeline.tokens.tokenizer import load_tokenizer, save_tokenizer
from headwater.llm.inference.parity import record_made
from headwater.llm.model import adapters, critic
from headwater.llm.model.files import stored
from headwater.llm.model.files.source import INDEX, WEIGHTS
from headwater.llm.training import zero
from headwater.llm.training.job import TrainJob, Worker
from headwater.llm.training.parallel import tensor
from headwater.llm.training.state import elements
from headwater.llm.training.state.average import averaged
from headwater.llm.training.state.manager import Checkpoints, score_of
from headwater.llm.training.undocumented import deepspeed_internals as internals

if TYPE_CHECKING:
    import torch

    Runs = Sequence[tuple[elements.Place, torch.Tensor]]

DONE = f"{SCRATCH}/exported"
"""Written after model and history are complete: on S3 a folder's files do not appear at once."""
MAX_SHARD_BYTES = 5 << 30
"""A larger model becomes several files with an index; a larger parameter has a file of its own."""
PART = 1 << 20
"""Elements sent to rank 0 at a time."""
BYTES = 4
"""Of an fp32 element."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of the exported model."""

    name: str
    shape: tuple[int, ...]
    parts: Callable[[], Iterator[torch.Tensor]]
    """Its elements one after another, in fp32; on rank 0 alone they have values. All ranks must iterate."""

    @property
    def bytes(self) -> int:
        return BYTES * math.prod(self.shape)


def export(job: TrainJob, worker: Worker, checkpoints: Checkpoints, wait: Callable[[], None]) -> None:
    """Write `model/`, and `best/` with the best state if wanted and not the last.

    The other ranks call `wait` while rank 0 finishes a folder: a collective would time out.
    """
    _export_folder(job, worker, "model")
    wait()
    best = checkpoints.best() if job.config.keep_best else None
    final = score_of(worker.history[-1], job.judged_by)
    if best is not None and best.score is not None and (final is None or best.score < final):
        checkpoints.load(best)
        _export_folder(job, worker, "best")
        wait()
    if worker.rank == 0:
        job.output.write_json(DONE, {"steps": job.config.steps})


def _export_folder(job: TrainJob, worker: Worker, name: str) -> None:
    created: Any = job.output.create_folder(name) if worker.rank == 0 else contextlib.nullcontext()
    with created as folder:
        with averaged(worker.engine):
            save_model(worker.engine, folder)
        if folder is not None:
            save_tokenizer(load_tokenizer(job.tokenizer.local()), folder)
            record_made(Path(folder))


def save_model(engine: Any, folder: Path | None, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write configuration and weights, with adapters merged and also on their own, into `folder`, which only
    rank 0 has; all ranks must call it."""
    adapted = adapters.is_adapted(engine.module)
    base = engine.module.get_base_model() if adapted else engine.module
    if not stored.by_own_names(base):
        _save_whole(engine, folder)
        return
    write_files(_tensors(engine), folder, max_shard_bytes)
    if folder is not None:
        _save_config(base, folder)
    if adapted:
        trained = [p for p in engine.module.parameters() if p.requires_grad]
        with zero.gathered(engine, trained) as module:
            if folder is not None:
                adapters.save_adapter(module, folder)


def _tensors(engine: Any) -> list[Tensor]:
    module = engine.module
    if adapters.is_adapted(module):
        merged = critic.without_head({each.name: each for each in adapters.merged(module)})
        return [
            Tensor(n, m.shape(internals.whole_shape), functools.partial(_merged, engine, m))
            for n, m in merged.items()
        ]
    masters = _masters(engine)
    found = []
    for name, parameter in critic.without_head(dict(module.named_parameters())).items():
        shape = _whole_shape(engine, name, parameter)
        parts: Any = functools.partial(_held, engine, parameter)
        if masters is not None and parameter.requires_grad:
            parts = functools.partial(_collected, engine, masters[name], math.prod(shape))
        found.append(Tensor(name, shape, parts))
    return found


def _whole_shape(engine: Any, name: str, parameter: Any) -> tuple[int, ...]:
    _, size = tensor.rank_and_size(engine)
    split = tensor.dim_of(name) if size > 1 else None
    shape = internals.whole_shape(parameter)
    return tuple(n * size if dim == split else n for dim, n in enumerate(shape))


def _alone(engine: Any) -> bool:
    """Whether rank 0 has all weights itself."""
    import torch.distributed as dist

    return dist.get_world_size() == 1 or (
        engine.zero_optimization_stage() == 0 and tensor.rank_and_size(engine)[1] == 1
    )


def _masters(engine: Any) -> Mapping[str, Runs] | None:
    """Parameter → this rank's fp32 elements; each is some rank's. None if they lie on a disk."""
    if internals.weights_on_disk(engine):
        return None
    found, alone = defaultdict(list), _alone(engine)
    for run in elements.runs(engine):
        if elements.WEIGHTS in run.values and (run.written or alone):
            found[run.parameter].append((run.place, run.values[elements.WEIGHTS].detach()))
    return found


def _collected(engine: Any, runs: Runs, size: int) -> Iterator[torch.Tensor]:
    import torch
    import torch.distributed as dist

    alone = _alone(engine)
    if alone and dist.get_rank():
        return
    for start in range(0, size, PART):
        part = torch.zeros(min(PART, size - start), device=engine.device)
        for place, values in runs:
            elements.copy_overlap(_from(values), values.numel(), place, part, elements.Place(start))
        if not alone:
            dist.reduce(part, 0)  # each element has one owner: the sum is its value
        yield part


def _from(values: torch.Tensor) -> elements.Read:
    return lambda start, into: into.copy_(values[start : start + into.numel()])


def _held(engine: Any, parameter: Any) -> Iterator[torch.Tensor]:
    with zero.gathered(engine, [parameter]):
        yield parameter.detach().float().view(-1)


def _merged(engine: Any, merged: adapters.Merged) -> Iterator[torch.Tensor]:
    with zero.gathered(engine, merged.parameters()):
        yield merged.value().view(-1)


def write_files(tensors: Sequence[Tensor], folder: Path | None, max_shard_bytes: int) -> None:
    """Write safetensors files of at most `max_shard_bytes`, with an index if there are several."""
    shards: list[list[Tensor]] = []
    room = 0
    for each in tensors:
        if each.bytes > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(each)
        room -= each.bytes
    stem = Path(WEIGHTS).stem
    names = [f"{stem}-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else [WEIGHTS]
    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open("wb") if folder else contextlib.nullcontext() as stream:
            if stream:
                stream.write(stored.header({each.name: ("F32", each.shape, each.bytes) for each in shard}))
            for each in shard:
                for part in each.parts():
                    if stream:
                        stream.write(part.cpu().contiguous().numpy().data)
    if folder and len(shards) > 1:
        places = {each.name: name for name, shard in zip(names, shards, strict=True) for each in shard}
        index = {"metadata": {"total_size": sum(each.bytes for each in tensors)}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _save_config(model: Any, folder: Path) -> None:
    import torch

    config = copy.deepcopy(model.config)
    config.dtype, config.architectures = torch.float32, [type(model).__name__]
    if hasattr(config, "quantization_config"):  # the saved weights are not quantised
        del config.quantization_config
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def _save_whole(engine: Any, folder: Path | None) -> None:
    """Like transformers: for families whose files have other tensors than the model."""
    with zero.gathered(engine) as module:
        weights = tensor.whole_weights(engine, module)
        if weights is None and hasattr(module, critic.HEAD):
            weights = critic.without_head(module.state_dict())
        if folder is not None and adapters.is_adapted(module):
            adapters.save_merged(module, folder)
        elif folder is not None:
            module.save_pretrained(folder, state_dict=weights)
