"""Peak memory and time of a fresh model's start on each worker, up to the finished engine.

    python -m benchmarks.training.birth [--depth 12] [--workers 2] [--stages 3] [--precision fp32] [--whole]

Local processes over gloo, without an optimizer step. Prints per rank the peak of resident memory above that
of the imported libraries, without the gradients and moments that the engine holds by then, as a share of the
fp32 model. `--whole` makes the whole model on every rank first.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch.distributed as dist

from headwater.llm.model.build import initialise
from headwater.llm.model.origins import fresh
from headwater.llm.model.shape import ModelConfig, hf_config, weights_of
from headwater.llm.stages.pretrain import PretrainConfig
from headwater.llm.training import engine as training_engine
from headwater.llm.training import zero
from headwater.llm.training.held_memory import state_bytes
from headwater.llm.training.loop import Worker
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.ranks import on_ranks


def resident(field: str) -> int:
    """Bytes: `VmRSS`, or `VmHWM` for the peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def on_this_rank(depth: int, stage: int, precision: str, whole: bool) -> None:
    shape = hf_config(ModelConfig(depth=depth, context=64), 32_768, chat_tokenizer())
    tiny = hf_config(ModelConfig(depth=1, context=64), 512, chat_tokenizer())
    settings = {
        "zero": {"stage": stage, "bucket_elements": 1_000_000},
        "precision": precision,
        "batch": 8,
        "micro_batch": 1,
    }
    config = PretrainConfig.model_validate(settings | {"workers": dist.get_world_size()})
    training_engine.build(fresh(tiny, 0), config, dist.get_world_size())  # imports what is imported late
    zero.start()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, started = resident("VmRSS"), time.perf_counter()
    model = (initialise if whole else fresh)(shape, 0)
    size = 4 * sum(weight.size for weight in weights_of(model))
    engine = training_engine.build(model, config, dist.get_world_size())
    seconds = time.perf_counter() - started
    worker = Worker(dist.get_rank(), dist.get_world_size(), engine, engine.device)
    held, _ = state_bytes(engine)
    later = held.gradients + (held.optimizer if precision == "fp32" else 0)
    for rank, (peak, took) in enumerate(worker.gather([resident("VmHWM") - before - later, seconds])):
        if worker.rank == 0:
            print(
                f"ZeRO {stage} {precision}, rank {rank}: {peak / 1e6:,.0f} MB, {peak / size:.2f} of "
                f"{size / 4e6:,.0f} M parameters in fp32; {took:.1f} s",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stages", default="3")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--whole", action="store_true")
    options = parser.parse_args()
    for stage in map(int, options.stages.split(",")):
        on_ranks(options.workers, on_this_rank, options.depth, stage, options.precision, options.whole)


if __name__ == "__main__":
    main()
