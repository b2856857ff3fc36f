"""Speed of sampled rollouts compared with `transformers.generate`, one thread each.

    python -m benchmarks.alignment.rollouts [--lengths geometric] [--depth 6] [--prompts 16] [--group 8]
    python -m benchmarks.alignment.rollouts --model FOLDER

Both sample the same number of answers to the same prompts, at temperature 1 from the whole distribution. An
answer ends at the model's end tokens or after its own number of tokens, which is drawn once (`--lengths`):
geometric with a quarter of `--max-tokens` as mean, uniform, or all of it. The two take turns; the ratio is
that of the medians of CPU seconds, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from headwater.llm.examples.chat import stop_ids
from headwater.llm.inference.base import Sampling
from headwater.llm.inference.torch_engine import TorchEngine
from headwater.llm.model.build import initialise
from headwater.llm.model.shape import ModelConfig, hf_config
from tests.llm.chat_tokenizer import chat_tokenizer

VOCABULARY, CONTEXT = 4096, 1024
PROMPT_TOKENS = (32, 160)


class AtLength(StoppingCriteria):
    """Each row ends after its own number of new tokens."""

    def __init__(self, prompt: int, lengths: list[int]) -> None:
        self.ends = torch.tensor(lengths) + prompt

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return input_ids.shape[1] >= self.ends


def lengths_of(kind: str, samples: int, most: int) -> list[int]:
    generator: Any = np.random.default_rng(1)
    if kind == "geometric":
        return np.minimum(generator.geometric(4 / most, samples), most).tolist()
    if kind == "uniform":
        return generator.integers(1, most + 1, samples).tolist()
    return [most] * samples


def engine_of(model: str | None, depth: int) -> TorchEngine:
    if model:
        return TorchEngine.load(model)
    tokenizer = chat_tokenizer()
    shape = ModelConfig(depth=depth, context=CONTEXT)
    return TorchEngine(initialise(hf_config(shape, VOCABULARY, tokenizer), 0), tokenizer)


def ours(engine: TorchEngine, prompts: list[list[int]], group: int, lengths: list[int]) -> int:
    """Number of sampled tokens."""
    batch, tokens = engine.batch(), 0
    for number, length in enumerate(lengths):
        batch.submit(prompts[number // group], Sampling(max_tokens=length), seed=number)
    while not batch.idle:
        tokens += len(batch.step())
    return tokens


def transformers(engine: TorchEngine, prompts: list[list[int]], group: int, lengths: list[int]) -> int:
    """The same by `generate`, which pads on the left."""
    width = max(map(len, prompts))
    pad = engine.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    ends = stop_ids(engine.tokenizer)
    with torch.inference_mode():
        found = engine.model.generate(
            ids,
            attention_mask=mask,
            num_return_sequences=group,
            max_new_tokens=max(lengths),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            eos_token_id=list(ends),
            pad_token_id=pad,
            stopping_criteria=StoppingCriteriaList([AtLength(width, lengths)]),
        )[:, width:].tolist()
    stops = set(ends)
    return sum(
        next((i + 1 for i, token in enumerate(row[:length]) if token in stops), min(length, len(row)))
        for row, length in zip(found, lengths, strict=True)
    )


def measured(run: Callable[[], int]) -> tuple[float, float, int]:
    """CPU seconds, seconds and tokens."""
    cpu, wall = time.process_time(), time.perf_counter()
    tokens = run()
    return time.process_time() - cpu, time.perf_counter() - wall, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--lengths", choices=["geometric", "uniform", "equal"], default="geometric")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    engine = engine_of(given.model, given.depth)
    generator: Any = np.random.default_rng(0)
    prompts = [
        generator.integers(10, 300, generator.integers(*PROMPT_TOKENS)).tolist() for _ in range(given.prompts)
    ]
    lengths = lengths_of(given.lengths, given.prompts * given.group, given.max_tokens)
    runs: dict[str, list[tuple[float, float, int]]] = {"transformers": [], "ours": []}
    engine.generate(prompts[:1], Sampling(max_tokens=2))
    for _ in range(given.repeats):
        for name, run in (("transformers", transformers), ("ours", ours)):
            runs[name].append(measured(lambda run=run: run(engine, prompts, given.group, lengths)))  # type: ignore[misc]
            cpu, wall, tokens = runs[name][-1]
            print(f"{name:13} {cpu:7.2f} CPU-s {wall:7.2f} s {tokens:6} tokens", flush=True)
    medians = {
        name: [statistics.median(one[place] for one in found) for place in (0, 1)]
        for name, found in runs.items()
    }
    ratio, slower = (a / b for a, b in zip(medians["transformers"], medians["ours"], strict=True))
    print(
        f"{given.lengths} lengths, {given.prompts} prompts x {given.group}, up to {given.max_tokens} tokens: "
        f"{ratio:.2f}x in CPU time, {slower:.2f}x in time"
    )


if __name__ == "__main__":
    main()
