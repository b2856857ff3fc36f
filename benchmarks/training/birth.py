"""Peak memory of each worker when a model starts, resumes and is exported, and whether bits are equal.

    python -m benchmarks.training.birth [--depth 12] [--workers 2 4] [--stage 3] [--precision fp32]

Local processes over gloo. A group of each size makes a fresh model and exports it; the first also trains one
step and saves a checkpoint. Then a group of each size resumes and exports. Prints per rank the peak of
resident memory above that of the imported libraries, without the gradients and moments that the engine holds
at the end of each part, as a share of the fp32 model. The fingerprints are those of the exported safetensors
files. `--whole` makes the whole model on every rank first; `--start` does nothing but start.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from headwater.llm.model.build import initialise
from headwater.llm.model.origins import fresh
from headwater.llm.model.shape import ModelConfig, hf_config, weights_of
from headwater.llm.stages.pretrain import PretrainConfig
from headwater.llm.training import engine as training_engine
from headwater.llm.training import export, zero
from headwater.llm.training.loop import Worker
from headwater.llm.training.state import birth, elements
from headwater.llm.training.undocumented import deepspeed_internals as internals
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.ranks import on_ranks

VOCABULARY, TOKENS = 32_768, 32


def resident(field: str) -> int:
    """Bytes: `VmRSS`, or `VmHWM` for the peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def training_only(engine: Any) -> Iterator[torch.Tensor]:
    """Gradients and moments, each block of memory once."""
    seen = set()
    states = internals.inner_optimizer(engine).state.values()
    moments = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
    for tensor in (*internals.held_gradients(engine), *moments):
        if tensor is not None and tensor.untyped_storage().data_ptr() not in seen:
            seen.add(tensor.untyped_storage().data_ptr())
            yield tensor.detach()


def held(engine: Any) -> int:
    """Resident bytes of gradients and moments: what was allocated but never written is not resident."""
    tensors = list(training_only(engine))
    size = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    before = resident("VmRSS")
    for tensor in tensors:
        tensor.view(-1)[:: 4096 // tensor.element_size()] += 0
    return size - (resident("VmRSS") - before)


class Measured:
    """Prints the peaks of all ranks in the parts of a group's life."""

    def __init__(self, label: str, size: int, ranks: int) -> None:
        self.label, self.size, self.ranks = label, size, ranks
        gc.collect()
        self.libraries = resident("VmRSS")
        self.worker: Worker | None = None

    def part(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returns: the engine, which later parts use."""
        dist.barrier()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        started = time.perf_counter()
        engine = make()
        seconds, peak = time.perf_counter() - started, resident("VmHWM") - self.libraries
        worker = Worker(dist.get_rank(), self.ranks, engine, engine.device)
        for rank, (own, without, took) in enumerate(worker.gather([peak, peak - held(engine), seconds])):
            if worker.rank == 0:
                print(
                    f"{self.label}, {name}, rank {rank} of {self.ranks}: {without / self.size:.2f} of "
                    f"{self.size / 4e6:,.0f} M parameters in fp32 ({without / 1e6:,.0f} MB; with gradients "
                    f"and moments {own / 1e6:,.0f}); {took:.1f} s",
                    flush=True,
                )
        return engine


def on_this_rank(options: argparse.Namespace, folder: Path, resumes: bool, saves: bool) -> None:
    shape = hf_config(ModelConfig(depth=options.depth, context=64), VOCABULARY, chat_tokenizer())
    tiny = hf_config(ModelConfig(depth=1, context=64), 512, chat_tokenizer())
    ranks, mine = dist.get_world_size(), dist.get_rank() == 0
    config = PretrainConfig.model_validate(
        {
            "zero": {"stage": options.stage, "bucket_elements": 1_000_000},
            "precision": options.precision,
            "optimizer": options.optimizer,
            "batch": 8,
            "micro_batch": 1,
            "workers": ranks,
        }
    )
    small = training_engine.build(fresh(tiny, 0), config, ranks)  # imports what is imported late
    elements.save(small, folder / f"small-{ranks}", {})
    dist.barrier()
    elements.load(small, folder / f"small-{ranks}")
    del small
    zero.start()
    size = 4 * sum(weight.size for weight in weights_of(fresh(shape, 0)))
    measured = Measured(f"ZeRO {options.stage} {options.precision} {options.optimizer}", size, ranks)

    def start() -> Any:
        return training_engine.build((initialise if options.whole else fresh)(shape, 0), config, ranks)

    def resume() -> Any:
        engine = training_engine.build(fresh(shape, 0), config, ranks, fill=False)
        birth.fill(engine, trained=False)
        elements.load(engine, folder / "checkpoint")
        return engine

    def exported(engine: Any) -> Any:
        export.save_model(engine, folder / "model" if mine else None)
        return engine

    engine = measured.part("resume", resume) if resumes else measured.part("start", start)
    if not options.start:
        (folder / "model").mkdir(exist_ok=True)
        measured.part("export", lambda: exported(engine))
        if mine:
            print(f"fingerprint {fingerprint(folder / 'model')}", flush=True)
    if saves:
        one_step(engine)
        elements.save(engine, folder / "checkpoint", {})


def one_step(engine: Any) -> None:
    zero.set_learning_rate(engine, 1e-3, 1e-3)
    ids = torch.randint(VOCABULARY, (1, TOKENS), generator=torch.Generator().manual_seed(dist.get_rank()))
    engine.set_gradient_accumulation_boundary(True)
    engine.backward(engine(input_ids=ids, labels=ids, use_cache=False).loss)
    engine.step()


def fingerprint(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            while part := stream.read(1 << 24):
                found.update(part)
    return found.hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--workers", type=int, nargs="+", default=[2])
    parser.add_argument("--stage", type=int, default=3)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--scratch", type=Path, help="a folder for checkpoint and model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder, saves = Path(scratch), not options.start
        for ranks in options.workers:
            on_ranks(ranks, on_this_rank, options, folder, False, saves)
            saves = False
        for ranks in [] if options.start else options.workers:
            on_ranks(ranks, on_this_rank, options, folder, True, False)


if __name__ == "__main__":
    main()
