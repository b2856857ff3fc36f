"""Tokens per CPU second of each backend, and how far its log-probabilities are from torch's in fp32.

    python -m benchmarks.serving.backends --model FOLDER [--batches 1 8 16] [--steps 60] [--repeats 3]

On one thread, for prompts of 64 ids: reading them, then sampled tokens at temperature 1 through the batch
(scheduler and sampler included), then the forward pass alone. The median of `--repeats`. CPU seconds are
those of the process, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from headwater.llm.inference import Sampling, load_engine
from headwater.llm.inference.backends import Backend, Quantize
from headwater.llm.inference.base import Engine, Limits
from headwater.llm.inference.engine import BatchedEngine
from headwater.llm.inference.parity import TEXTS

KINDS: tuple[tuple[Backend, Quantize], ...] = (
    ("torch", "none"),
    ("openvino", "none"),
    ("openvino", "int8"),
)
PROMPT = 64


def seconds(call: Callable[[], None]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


@torch.inference_mode()
def rates(engine: BatchedEngine, size: int, steps: int) -> tuple[float, float, float]:
    """Tokens per CPU second: reading prompts, the batch's sampled tokens, the forward pass alone."""
    drawn = np.random.default_rng(0).integers(5, engine._vocabulary, (size, PROMPT))
    prompts: list[list[int]] = drawn.tolist()
    batch = engine.batch(Limits(read_tokens=size * PROMPT))
    for seed, prompt in enumerate(prompts):
        batch.submit(prompt, Sampling(steps + 1, ignore_eos=True), seed)
    reading = seconds(lambda: batch.step() and None)
    batch.step()
    sampling = seconds(lambda: [batch.step() for _ in range(steps - 1)] and None)
    decoder, rows = engine._open(), range(size)
    decoder.reserve(size, PROMPT + steps + 1, 0)
    for row in rows:
        decoder.clear(row)
    decoder.read(rows, [0] * size, prompts)

    def forward() -> None:
        for step in range(steps):
            decoder.read(rows, [PROMPT + step] * size, [[5]] * size)

    return size * PROMPT / reading, size * (steps - 1) / sampling, size * steps / seconds(forward)


def recorded(engine: Engine) -> np.ndarray:
    """Log-probabilities of the texts of the parity gate."""
    ids = [engine.tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    return np.concatenate(engine.score([each[:1] for each in ids], [each[1:] for each in ids]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    wanted: np.ndarray | None = None
    for backend, quantize in KINDS:
        began = time.perf_counter()
        engine = load_engine(options.model, threads=1, backend=backend, quantize=quantize)
        assert isinstance(engine, BatchedEngine)
        name = f"{backend} {engine.precision}"
        found = recorded(engine)
        wanted = found if wanted is None else wanted
        apart = np.abs(found - wanted)
        print(f"{name}: opened in {time.perf_counter() - began:.1f} s, log-probabilities apart by "
              f"{apart.mean():.2g} nats in the mean, {apart.max():.2g} at most", flush=True)  # fmt: skip
        for size in options.batches:
            runs = [rates(engine, size, options.steps) for _ in range(options.repeats)]
            reading, sampled, alone = (statistics.median(each) for each in zip(*runs, strict=True))
            print(f"  batch {size:2}: reads {reading:9,.0f}, samples {sampled:8,.0f}, forward pass alone "
                  f"{alone:8,.0f} tokens per CPU second", flush=True)  # fmt: skip
        del engine


if __name__ == "__main__":
    main()
