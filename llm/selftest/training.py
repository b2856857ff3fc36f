"""Checks of training: every ZeRO stage and precision, compiled, packed, and moved between devices.

The production engine and step (`llm/training/`) train a tiny model on texts that count; a loop of plain torch
in fp32 on the same device says which losses are right.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.model.shape import ModelConfig
from headwater.llm.planning.calibrate import RandomRows
from headwater.llm.rows.order import ShuffledOrder
from headwater.llm.selftest.checks import Found, Skipped
from headwater.llm.selftest.place import Device, Place
from headwater.llm.stages.pretrain import PretrainConfig, RowBatches
from headwater.llm.training.zero_config import Fp16Config, ZeroConfig

if TYPE_CHECKING:
    import torch

    from headwater.data_pipeline.tokens.shards import TokenRows

Precision = Literal["fp32", "bf16", "fp16"]
TOLERANCE = {"fp32": 1e-5, "bf16": 3e-3, "fp16": 3e-3}
"""Largest relative deviation of a loss: fp32 as in `benchmarks/training/invariance.py`; bf16 keeps 8 bits,
fp16 11 (bf16 on CPUs: 2e-4, and 8e-3 where Adam's bias correction was a step ahead; docs/log.md)."""
MOVED = 1e-4
"""The same for fp32 on two kinds of device, whose matrix products add in other orders."""
RATE = 3e-3
SHARP = 4.0
"""Factor of fresh weights where attention and choices must show: as drawn, tokens hardly depend on others."""


@dataclass(frozen=True)
class Sizes:
    """A tiny training."""

    depth: int = 2
    width: int = 64
    vocabulary: int = 256
    row_length: int = 64
    batch: int = 4
    micro_batch: int = 2
    steps: int = 6
    document: int = 17
    """Tokens of each document in a row, its end included."""

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(depth=self.depth, width=self.width, context=2 * self.row_length)


@dataclass
class Counting(RandomRows):
    """Rows of documents that count upwards, each from another number: something to learn in a few steps."""

    document: int = 17

    def gather(self, indices: np.ndarray) -> np.ndarray:
        at, rows = np.arange(self.row_length + 1), np.asarray(indices)[:, None]
        first = 7 * rows + 13 * (at // self.document)
        ids = 2 + (first + at) % (self.vocab_size - 2)
        return np.where(at % self.document == 0, self.end_id, ids)


def counting(sizes: Sizes) -> Counting:
    return Counting(1 << 10, sizes.row_length, sizes.vocabulary, document=sizes.document)


def settings(sizes: Sizes, device: Device, stage: int, precision: Precision, **others: Any) -> PretrainConfig:
    """Of a training whose every step can be told from plain AdamW's."""
    keys = {"steps": sizes.steps, "batch": sizes.batch, "micro_batch": sizes.micro_batch, "workers": 1}
    return PretrainConfig(
        model=sizes.model,
        zero=ZeroConfig.model_validate({"stage": stage}),
        precision=precision,
        fp16=Fp16Config(initial_scale_power=8),  # no step is lost in search of the scale
        gpus_per_worker=float(device == "cuda"),
        learning_rate=RATE,
        warmup_share=0.0,
        schedule="constant",
        weight_decay=0.0,
        clip=0.0,
        separate_documents=True,
        **(keys | others),
    )


def fresh(sizes: Sizes) -> torch.nn.Module:
    """The model to train, without values."""
    from headwater.llm.model import origins

    return origins.fresh(_shape(sizes), 0)


def _shape(sizes: Sizes) -> Any:
    from types import SimpleNamespace

    from headwater.llm.model.shape import hf_config

    ends: Any = SimpleNamespace(eos_token_id=1, pad_token_id=0)
    return hf_config(sizes.model, sizes.vocabulary, ends)


def sharp(sizes: Sizes) -> torch.nn.Module:
    """A whole model whose attention and choices depend on every token."""
    import torch

    from headwater.llm.model.origins import filled

    model = filled(fresh(sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(SHARP)
    return model


def trained(sizes: Sizes, config: PretrainConfig, store: str, save: int = 0) -> list[float]:
    """The loss of each step, from the newest checkpoint in the folder `store` on, or from the beginning.

    With `save` a checkpoint is written after so many steps.
    """
    from headwater.llm.training import engine as training_engine
    from headwater.llm.training.job import TrainJob, Worker
    from headwater.llm.training.loop import train_step
    from headwater.llm.training.losses.objectives import NextToken
    from headwater.llm.training.state.manager import Checkpoints

    rows, order = counting(sizes), ShuffledOrder(1 << 10, config.batch, 0)
    source = RowBatches(cast("TokenRows", rows), order, separate_documents=True)
    output = Artifact(store, "selftest", "key")
    job = TrainJob(
        "selftest",
        config,
        NextToken(),
        source,
        lambda: fresh(sizes),
        Folder(output, "tokenizer"),
        output,
    )
    engine = training_engine.build(job.load_model(), config, 1, fill=False)
    worker = Worker(0, 1, engine, engine.device)
    checkpoints = Checkpoints(job, worker)
    source.open(worker)
    losses = []
    for step in range(checkpoints.restore(), config.steps):
        record = train_step(job, worker, step)
        worker.history.append(record)
        losses.append(record["loss"])
        if step + 1 == save:
            checkpoints.save(save)
            checkpoints.settle()
    checkpoints.close()
    return losses


def plain(sizes: Sizes, device: Device) -> list[float]:
    """The loss of each step by torch and transformers alone, in fp32."""
    import torch
    from torch.nn.functional import cross_entropy

    from headwater.data_pipeline.tokens.packing import document_positions
    from headwater.llm.model.origins import filled

    model: Any = filled(fresh(sizes)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, (0.9, 0.95), weight_decay=0.0)
    rows, losses = counting(sizes), []
    plan = ShuffledOrder(len(rows), sizes.batch, 0)
    for step in range(sizes.steps):
        gathered = rows.gather(plan.indices(step))
        places = document_positions(gathered[:, :-1], rows.end_id)
        ids, positions = (torch.from_numpy(array).to(device) for array in (gathered, places))
        logits = model(input_ids=ids[:, :-1], position_ids=positions, use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def as_plain(sizes: Sizes, place: Place, precision: Precision, stage: int) -> Iterator[Found]:
    """Losses of the engine against those of plain torch."""
    right = place.run(plain, sizes, place.device)
    own = _alone(sizes, place, settings(sizes, place.device, stage, precision))
    yield compared(own, right, TOLERANCE[precision], "plain torch in fp32")


def _alone(sizes: Sizes, place: Place, config: PretrainConfig) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="headwater-selftest-") as store:
        return place.run(trained, sizes, config, store)


def compiled(sizes: Sizes, place: Place, precision: Precision) -> Iterator[Found]:
    """Losses of a compiled model against those of plain torch. Raises Skipped without a compiler."""
    place.run(find_compiler, place.device)
    config = settings(sizes, place.device, 0, precision, torch_compile=True)
    right = place.run(plain, sizes, place.device)
    own = _alone(sizes, place, config)
    yield compared(own, right, TOLERANCE[precision], "plain torch, not compiled")
    graphs = place.run(compiled_graphs)
    yield Found(graphs > 0, str(graphs), "at least 1", "graphs")


def compiled_graphs() -> int:
    """How many graphs torch.compile has made in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def find_compiler(device: Device) -> None:
    """Raises Skipped if torch.compile has nothing to compile with."""
    from torch._inductor.exc import InvalidCxxCompiler

    if device == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            raise Skipped("torch.compile needs a C++ compiler on CPUs, such as g++") from error
        return
    from torch.utils._triton import has_triton

    if not has_triton():
        raise Skipped("torch.compile needs Triton on GPUs")
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        raise Skipped("Triton needs a C compiler, such as gcc")


def moved(
    sizes: Sizes, first: Place, second: Place, stages: tuple[int, int], bound: float
) -> Iterator[Found]:
    """A training goes on at one place from the checkpoint of another, where it also went on itself."""
    half = sizes.steps // 2
    with tempfile.TemporaryDirectory(prefix="headwater-selftest-") as store:
        stayed = first.run(trained, sizes, settings(sizes, first.device, stages[0], "fp32"), store, half)
        went = second.run(trained, sizes, settings(sizes, second.device, stages[1], "fp32"), store)
    if len(went) != sizes.steps - half:
        yield Found(False, f"it made {len(went)} of {sizes.steps} steps", f"the last {sizes.steps - half}")
        return
    yield compared(went, stayed[half:], bound, "the run that stayed")


def packed(sizes: Sizes, place: Place, precision: Precision) -> Iterator[Found]:
    """Documents of a row against each alone, and against the row without separation."""
    alone, apart, together = place.run(document_losses, sizes, settings(sizes, place.device, 0, precision))
    bound = TOLERANCE[precision]
    off, seen = deviation(apart, alone), deviation(together, alone)
    yield Found(
        off <= bound and seen > 3 * bound,
        f"off by {off:.1e} at most; {seen:.1e} where documents see each other",
        f"at most {bound:g}; more than {3 * bound:g}",
    )


def document_losses(sizes: Sizes, config: PretrainConfig) -> tuple[list[float], list[float], list[float]]:
    """Mean loss (nats) of each whole document of a row: alone; in the row, apart; in the row, not apart."""
    import torch

    from headwater.data_pipeline.tokens.packing import document_positions
    from headwater.llm.training import engine as training_engine
    from headwater.llm.training.losses.token_losses import token_losses

    engine = training_engine.build(sharp(sizes), config, 1)
    rows = counting(sizes)
    row = rows.gather(np.arange(1))
    ids, positions = (
        torch.from_numpy(array).to(engine.device)
        for array in (row, document_positions(row[:, :-1], rows.end_id))
    )
    starts = range(0, sizes.row_length + 1 - sizes.document, sizes.document)
    with torch.no_grad():
        apart, together = token_losses(engine, ids, positions=positions), token_losses(engine, ids)
        alone = [token_losses(engine, ids[:, start : start + sizes.document]) for start in starts]
    inside = [slice(start, start + sizes.document - 1) for start in starts]
    return (
        [float(each.mean()) for each in alone],
        [float(apart[:, part].mean()) for part in inside],
        [float(together[:, part].mean()) for part in inside],
    )


def compared(own: Sequence[float], right: Sequence[float], bound: float, of: str) -> Found:
    """Losses that should be those of another run, and fall."""
    off = deviation(own, right)
    figure = f"loss {own[0]:.4f} → {own[-1]:.4f}, off by {off:.1e} at most"
    return Found(off <= bound and own[-1] < own[0], figure, f"{right[-1]:.4f} by {of}, off by {bound:g}")


def deviation(own: Iterable[float], right: Iterable[float]) -> float:
    """Largest relative deviation; infinite if a value is not finite."""
    off = np.abs(np.array([*own]) / np.array([*right]) - 1)
    return float(off.max()) if np.isfinite(off).all() else float("inf")
