"""What a kept prefix saves and what a JSON Schema costs, on one thread.

    python -m benchmarks.serving.engine --model FOLDER [--prefix 1000] [--tokens 24] [--repeats 5]

Time to the first token of prompts of `--prefix` tokens and 20 others, the median of `--repeats`, without and
with a kept prefix; then milliseconds per token of 8 sequences in a batch without and with a schema. All in
CPU time, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from headwater.llm.inference import Sampling
from headwater.llm.inference.base import Limits
from headwater.llm.inference.shared import SharedEngine
from headwater.llm.inference.torch_engine import TorchEngine

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1},
    },
    "required": ["name", "age", "tags"],
}


def first_token(engine: SharedEngine, prompt: list[int]) -> float:
    """Milliseconds."""
    began = time.process_time()
    stream = engine.stream(prompt, Sampling(1, temperature=0))
    next(stream)
    return 1000 * (time.process_time() - began)


def prefix(engine: TorchEngine, length: int, repeats: int) -> None:
    without, kept = SharedEngine(engine, Limits()), SharedEngine(engine)
    beginning = [100 + (7 * place) % 300 for place in range(length)]
    prompts = [
        beginning + [(number * 31 + place) % 300 + 5 for place in range(20)] for number in range(repeats + 1)
    ]
    first_token(kept, prompts[-1])
    times = [(first_token(without, prompt), first_token(kept, prompt)) for prompt in prompts[:-1]]
    cold, warm = (statistics.median(each) for each in zip(*times, strict=True))
    print(f"first token after {length} + 20 tokens: {cold:.1f} ms, with a kept prefix {warm:.1f} ms "
          f"({warm / cold:.3f})")  # fmt: skip


def schema(engine: TorchEngine, tokens: int) -> None:
    for given in (None, json.dumps(SCHEMA), '{"type": "object"}'):
        sampling = Sampling(tokens, ignore_eos=given is None, schema=given)
        engine.generate([[5, 6, 7]] * 8, sampling, range(8))  # compiles the schema
        batch, steps = engine.batch(), []
        for seed in range(8):
            batch.submit([5, 6, 7], sampling, seed)
        while not batch.idle:
            began = time.process_time()
            made = len(batch.step())
            steps.append(1000 * (time.process_time() - began) / made)
        name = "without a schema" if given is None else f"schema of {len(given)} characters"
        print(f"{name}: {statistics.mean(steps):.2f} ms per token, at most {max(steps):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--prefix", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    engine = TorchEngine.load(options.model, threads=1)
    prefix(engine, options.prefix, options.repeats)
    schema(engine, options.tokens)


if __name__ == "__main__":
    main()
