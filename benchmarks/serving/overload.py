"""Many clients at once: how soon the refused are told, how health fares, whether accepted requests are lost.

    python -m benchmarks.serving.overload [--clients 1000] [--tokens 32]

Every client opens a connection and sends one request at the same moment over the loopback. Health is asked
for four times a second meanwhile, and as long as requests are being answered, one more client comes every
50 ms: a newcomer at a full server. The clients are one process of their own that does nothing but read and
write bytes; its CPU time is told, and so is that of each of the server's processes. The model is new, of the
size of the quickstart's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.serving.throughput import ASK, _new
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.store import Store
from headwater.serving import app
from headwater.serving.config import AppConfig

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"


@dataclass
class Told:
    status: int
    seconds: float
    """From the connection's opening to the head of the response."""
    body: bytes


async def _send(port: int, request: bytes) -> Told:
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    took = time.perf_counter() - began
    body = await reader.read()
    writer.close()
    return Told(int(head.split(None, 2)[1]), took, body)


def _chat(tokens: int) -> bytes:
    body = json.dumps(
        {"model": "served", "messages": [ASK], "max_tokens": tokens, "ignore_eos": True}
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n"
    return f"{head}content-type: application/json\r\nconnection: close\r\n\r\n".encode() + body


async def _again(port: int, request: bytes, pause: float, seen: list[Told]) -> None:
    while True:
        seen.append(await _send(port, request))
        await asyncio.sleep(pause)


async def _clients(port: int, clients: int, tokens: int) -> None:
    request, health, late = _chat(tokens), list[Told](), list[Told]()
    first = await _send(port, request)
    watched = [
        asyncio.create_task(_again(port, HEALTH, 0.25, health)),
        asyncio.create_task(_again(port, request, 0.05, late)),
    ]
    answers = await asyncio.gather(*(_send(port, request) for _ in range(clients)))
    for task in watched:
        task.cancel()
    accepted = [json.loads(told.body)["usage"]["completion_tokens"] for told in answers if told.status == 200]
    refused = [told for told in answers if told.status == 429 and b'"overloaded"' in told.body]
    lost = sum(used != tokens for used in accepted) + clients - len(accepted) - len(refused)
    print(f"first request after the start: {first.seconds:.2f} s")
    print(f"{clients} clients: {len(accepted)} answered, {len(refused)} refused with 429, {lost} lost")
    _print("refused after", refused)
    _print("newcomers at the full server refused after", [told for told in late if told.status == 429])
    _print("health after", [told for told in health if told.status == 200])
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(f"clients: {used.ru_utime + used.ru_stime:.2f} s of CPU time")


def _print(what: str, told: Sequence[Told]) -> None:
    if took := sorted(1000 * each.seconds for each in told):
        print(
            f"{what} {statistics.median(took):.0f} ms (median), {took[int(0.95 * len(took))]:.0f} ms (p95), "
            f"{took[-1]:.0f} ms (longest of {len(took)})"
        )


def _cpu_seconds() -> dict[psutil.Process, float]:
    found: dict[psutil.Process, float] = {}
    for each in psutil.Process().children(recursive=True):
        try:
            found[each] = sum(each.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)  # of the process of the clients
    options = parser.parse_args()
    if options.port:
        asyncio.run(_clients(options.port, options.clients, options.tokens))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = _new(Path(folder) / "model")
        config = AppConfig(model=str(model), model_name="served", port=0, threads=1)
        url = app.start(config, Session(Store(folder)))
        try:
            memory, before = psutil.virtual_memory().used, _cpu_seconds()
            sizes = ["--clients", str(options.clients), "--tokens", str(options.tokens)]
            clients = [
                sys.executable,
                "-m",
                "benchmarks.serving.overload",
                "--port",
                url.rsplit(":", 1)[1],
                *sizes,
            ]
            subprocess.run(clients, check=True)
            for process, spent in _cpu_seconds().items():
                if spent - before.get(process, 0.0) > 0.2:
                    name = " ".join(process.cmdline())[:60]
                    print(f"{name}: {spent - before.get(process, 0.0):.2f} s of CPU time")
            print(f"memory of the machine: {(psutil.virtual_memory().used - memory) / 2**20:+.0f} MiB")
            print(f"load of the machine: {os.getloadavg()[0]:.1f}")
        finally:
            app.stop()


if __name__ == "__main__":
    main()
