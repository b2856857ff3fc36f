"""Tokens per second of the endpoint for several clients at once, beside the engine alone in the same run.

    python -m benchmarks.serving.throughput [--model FOLDER] [--clients 1 8 16] [--backend openvino]

Without a model folder a new one of depth 3 is served, of the size of the quickstart's. Clients stream sampled
answers without retrieval, one after the other, for `--seconds`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.alignment.rollouts import engine_of
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.tokens.tokenizer import save_tokenizer
from headwater.llm.inference import Sampling, load_engine
from headwater.serving import app
from headwater.serving.config import AppConfig

ASK = {"role": "user", "content": "What is the news about the old stone bridge?"}


async def _client(url: str, tokens: int, until: float, number: int, seen: list[tuple[float, int]]) -> None:
    """Ask until the time is over; (seconds to the first token, tokens) of each answer that ended before."""
    body = {"model": "served", "messages": [ASK], "max_tokens": tokens, "temperature": 1.0, "stream": True}
    body |= {"stream_options": {"include_usage": True}}
    async with httpx.AsyncClient(timeout=120) as client:
        for asked in range(10_000):
            began, first, used = time.perf_counter(), 0.0, 0
            more = {"seed": 10_000 * number + asked}
            async with client.stream("POST", f"{url}/v1/chat/completions", json=body | more) as response:
                response.raise_for_status()
                async for line in response.aiter_lines():
                    if '"content": "' in line and not first and '"content": ""' not in line:
                        first = time.perf_counter() - began
                    if '"usage": {' in line:
                        used = json.loads(line[6:])["usage"]["completion_tokens"]
            if time.perf_counter() > until:
                return
            seen.append((first, used))


async def _measure(url: str, clients: int, tokens: int, seconds: float) -> tuple[float, float]:
    """Tokens per second of all clients, and the median time to the first token in milliseconds."""
    seen: list[tuple[float, int]] = []
    began = time.perf_counter()
    await asyncio.gather(*(_client(url, tokens, began + seconds, n, seen) for n in range(clients)))
    return sum(used for _, used in seen) / seconds, 1000 * statistics.median(first for first, _ in seen)


def _new(folder: Path) -> Path:
    engine = engine_of(None, depth=3)
    engine.model.save_pretrained(folder)
    save_tokenizer(engine.tokenizer, folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--backend", choices=["torch", "openvino"], default="torch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or _new(Path(folder) / "model")
        engine = load_engine(model, threads=1, backend=options.backend)
        prompt = list(range(5, 30))
        for batch in options.clients:
            engine.generate([prompt] * batch, Sampling(4))
            began = time.perf_counter()
            made = engine.generate([prompt] * batch, Sampling(options.tokens, seed=1))
            took = time.perf_counter() - began
            print(f"engine, batch {batch:3}: {sum(len(c.ids) for c in made) / took:8,.0f} tokens/s")
        config = AppConfig(model=str(model), model_name="served", port=0, threads=1, backend=options.backend)
        url = app.start(config, Session(Store(folder)))
        try:
            asyncio.run(_measure(url, 2, options.tokens, 2))
            for clients in options.clients:
                rate, first = asyncio.run(_measure(url, clients, options.tokens, options.seconds))
                print(f"{clients:3} clients: {rate:8,.0f} tokens/s, first token after {first:6.1f} ms")
        finally:
            app.stop()


if __name__ == "__main__":
    main()
