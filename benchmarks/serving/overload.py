"""Many clients at once: how soon the refused are told, how health fares, whether accepted requests are lost.

    python -m benchmarks.serving.overload [--clients 1000] [--tokens 32] [--rounds 3]

Every client opens a connection and sends one request at the same moment over the loopback. Health is asked
for before, and four times a second meanwhile, and as long as requests are being answered, one more client
comes every 50 ms: a newcomer at a full server. All of it is done several times, to see the memory of the
server grow or not. The clients are one process of their own that does nothing but read and write bytes; its
CPU time is told, and so is that of each of the server's processes. A time is that from the sending of a
request to the moment when the kernel has the head of its response: not the server's are those in which the
process of the clients opens and reads other connections. The model is new, of the size of the quickstart's.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving.throughput import ASK, _new
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.store import Store
from headwater.serving import app
from headwater.serving.config import AppConfig

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
HEAD_END = b"\r\n\r\n"
SO_TIMESTAMPNS = 35
"""Linux: what is received comes with the time when the kernel had it (socket(7))."""
HEALTH_SECONDS, NEWCOMER_SECONDS = 0.25, 0.05
"""Between two requests for health, and two newcomers."""


@dataclass
class Told:
    began: float = 0.0
    """When its request was sent, in seconds of the kernel's clock."""
    seconds: float = 0.0
    """From then until the kernel had the head of the response."""
    received: bytes = b""
    ended: bool = False

    @property
    def status(self) -> int:
        return int(self.received.split(None, 2)[1]) if self.seconds else 0

    @property
    def body(self) -> bytes:
        return self.received.partition(HEAD_END)[2]


class Connections:
    """Each sends one request and reads its response to the end. Sockets and a selector alone: a client of
    asyncio takes more CPU time for a request than a server for its refusal."""

    def __init__(self, port: int) -> None:
        self._port, self._selector = port, selectors.DefaultSelector()

    @property
    def open(self) -> int:
        return len(self._selector.get_map())

    def send(self, request: bytes) -> Told:
        told, connection = Told(), socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        connection.connect_ex(("127.0.0.1", self._port))
        self._selector.register(connection, selectors.EVENT_WRITE, (request, told))
        return told

    def turn(self, seconds: float) -> None:
        """Write and read what can be, waiting no longer than this for the first."""
        for key, events in self._selector.select(seconds):
            connection: Any = key.fileobj
            request, told = key.data
            try:
                if events & selectors.EVENT_WRITE:
                    told.began = time.time()
                    connection.sendall(request)  # smaller than a socket's buffer
                    self._selector.modify(connection, selectors.EVENT_READ, key.data)
                    continue
                part, notes, _, _ = connection.recvmsg(1 << 16, 64)
            except OSError:
                part, notes = b"", []
            told.received += part
            if not told.seconds and HEAD_END in told.received:
                told.seconds = _received(notes) - told.began
            if not part:
                told.ended = True
                self._selector.unregister(connection)
                connection.close()


def _received(notes: Sequence[tuple[int, int, bytes]]) -> float:
    """When the kernel had it. The first packets after the clock was asked for have no time."""
    if not notes:
        return time.time()
    seconds, nanoseconds = struct.unpack("@ll", notes[0][2])
    return float(seconds + nanoseconds / 1e9)


def _chat(tokens: int) -> bytes:
    body = json.dumps(
        {"model": "served", "messages": [ASK], "max_tokens": tokens, "ignore_eos": True}
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n"
    return f"{head}content-type: application/json\r\nconnection: close\r\n\r\n".encode() + body


def _clients(port: int, clients: int, tokens: int) -> None:
    connections, request = Connections(port), _chat(tokens)
    first = connections.send(request)
    connections.send(HEALTH)  # as probes do all the time
    while connections.open:
        connections.turn(1)
    used, began = time.process_time(), time.perf_counter()
    answers = [connections.send(request) for _ in range(clients)]
    health, late = list[Told](), list[Told]()
    while connections.open:
        connections.turn(0.01)
        now = time.perf_counter() - began
        answering = not all(told.ended for told in answers)
        if answering and now > len(health) * HEALTH_SECONDS:
            health.append(connections.send(HEALTH))
        if answering and now > len(late) * NEWCOMER_SECONDS:
            late.append(connections.send(request))
    accepted = [json.loads(told.body)["usage"]["completion_tokens"] for told in answers if told.status == 200]
    refused = [told for told in answers if told.status == 429 and b'"overloaded"' in told.body]
    lost = sum(count != tokens for count in accepted) + clients - len(accepted) - len(refused)
    print(f"first request after the start: {first.seconds:.2f} s")
    print(f"{clients} clients: {len(accepted)} answered, {len(refused)} refused with 429, {lost} lost")
    _print("refused after", refused)
    _print("newcomers at the full server refused after", [told for told in late if told.status == 429])
    _print("health after", [told for told in health if told.status == 200])
    unwell = sum(told.status != 200 for told in health)
    spent = time.process_time() - used
    print(f"health without an answer of 200: {unwell}; clients: {spent:.2f} s of CPU time", flush=True)


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


def _memory() -> int:
    """Bytes that the server's processes have for themselves."""
    sizes = 0
    for each in psutil.Process().children(recursive=True):
        try:
            sizes += each.memory_full_info().uss
        except psutil.Error:
            continue
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)  # of the process of the clients
    options = parser.parse_args()
    if options.port:
        _clients(options.port, options.clients, options.tokens)
        return
    with tempfile.TemporaryDirectory() as folder:
        model = _new(Path(folder) / "model")
        config = AppConfig(model=str(model), model_name="served", port=0, threads=1)
        url = app.start(config, Session(Store(folder)))
        try:
            before, memory = _cpu_seconds(), [_memory()]
            sizes = ["--clients", str(options.clients), "--tokens", str(options.tokens)]
            clients = [
                sys.executable,
                "-m",
                "benchmarks.serving.overload",
                "--port",
                url.rsplit(":", 1)[1],
                *sizes,
            ]
            for _ in range(options.rounds):
                subprocess.run(clients, check=True)
                memory.append(_memory())
                print(f"load of the machine: {os.getloadavg()[0]:.1f}")
            for process, spent in _cpu_seconds().items():
                if spent - before.get(process, 0.0) > 0.2:
                    name = " ".join(process.cmdline())[:60]
                    print(f"{name}: {spent - before.get(process, 0.0):.2f} s of CPU time")
            told = ", ".join(f"{size / 2**20:.0f}" for size in memory)
            print(f"memory of the server before and after each round: {told} MiB")
        finally:
            app.stop()


if __name__ == "__main__":
    main()
