"""Tokens per second of the endpoint for several clients at once, beside the engine alone in the same run.

    python -m benchmarks.serving.throughput [--model FOLDER] [--clients 1 8 16] [--backend openvino] [--peer]

Without a model folder a new one of depth 3 is served, of the size of the quickstart's. Clients stream sampled
answers without retrieval, one after the other, for `--seconds`. `--peer` measures `transformers serve` with
continuous batching afterwards, on the same model, with the same clients and one thread.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from benchmarks.alignment.rollouts import engine_of
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.tokens.tokenizer import save_tokenizer
from headwater.llm.inference import Sampling, load_engine
from headwater.serving import app
from headwater.serving.config import AppConfig
from tests.ports import free_ports

ASK = {"role": "user", "content": "What is the news about the old stone bridge?"}


async def _client(
    url: str, model: str, tokens: int, until: float, number: int, seen: list[tuple[float, int]]
) -> None:
    """Ask until the time is over; (seconds to the first token, tokens) of each answer that ended before."""
    body = {"model": model, "messages": [ASK], "max_tokens": tokens, "temperature": 1.0, "stream": True}
    body |= {"stream_options": {"include_usage": True}}
    async with httpx.AsyncClient(timeout=120) as client:
        for asked in range(10_000):
            began, first, used = time.perf_counter(), 0.0, 0
            more = {"seed": 10_000 * number + asked}
            async with client.stream("POST", f"{url}/v1/chat/completions", json=body | more) as response:
                response.raise_for_status()
                async for line in response.aiter_lines():
                    chunk = json.loads(line[6:]) if line.startswith("data: {") else {}
                    if not first and any(
                        choice["delta"].get("content") for choice in chunk.get("choices", [])
                    ):
                        first = time.perf_counter() - began
                    if usage := chunk.get("usage"):
                        used = usage["completion_tokens"]
            if time.perf_counter() > until:
                return
            seen.append((first, used))


async def _measure(url: str, model: str, clients: int, tokens: int, seconds: float) -> tuple[float, float]:
    """Tokens per second of all clients, and the median time to the first token in milliseconds."""
    seen: list[tuple[float, int]] = []
    began = time.perf_counter()
    await asyncio.gather(*(_client(url, model, tokens, began + seconds, n, seen) for n in range(clients)))
    median = statistics.median(first for first, _ in seen) if seen else math.nan
    return sum(used for _, used in seen) / seconds, 1000 * median


def _print_rates(name: str, url: str, model: str, options: argparse.Namespace) -> None:
    asyncio.run(_client(url, model, 2, 0, 0, []))  # one answer: a server may load the model for it
    asyncio.run(_measure(url, model, max(options.clients), options.tokens, 4))
    for clients in options.clients:
        rate, first = asyncio.run(_measure(url, model, clients, options.tokens, options.seconds))
        print(f"{name}, {clients:3} clients: {rate:8,.0f} tokens/s, first token after {first:6.1f} ms")


@contextlib.contextmanager
def _peer(model: Path) -> Iterator[str]:
    """URL of `transformers serve` with continuous batching."""
    (port,) = free_ports(1)
    command = [Path(sys.executable).with_name("transformers"), "serve", model, "--continuous-batching"]
    command += ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        url, until = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health").is_success:
                    break
            if server.poll() is not None or time.monotonic() > until:
                raise SystemExit("transformers serve did not start: pip install 'transformers[serving]'")
            time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait()


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
    parser.add_argument("--peer", action="store_true")
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
            _print_rates("headwater", url, "served", options)
        finally:
            app.stop()
        if options.peer:
            with _peer(model) as url:
                _print_rates("transformers serve", url, str(model), options)


if __name__ == "__main__":
    main()
