"""Streams while engine replicas are killed, and how long each part of the endpoint is missed after a kill.

    python -m benchmarks.serving.survive [--kills 20] [--seconds 120] [--clients 4] [--append FILE]
    python -m benchmarks.serving.survive --no-spare
    python -m benchmarks.serving.survive --recovery

Clients read streams all the time. The oldest of two replicas gets SIGKILL whenever both run, so that the
other one is a warm spare; with `--no-spare`, whenever any runs. Told are the streams that differ from the
undisturbed ones in a byte (but for the response's id and time), and the pauses: of the times between two
events of a stream with a kill between them the longest, as many as requests were given to another replica.
Ray runs its processes at nice 15: on a machine with other work set RAY_worker_niceness=0, or Serve may not
even start. At last the ingress is
killed in mid-answer, which ends the stream; the answer must be the same when it is asked for again with its
seed. `--append` adds the run to a file of JSON lines and tells the result of all its runs. `--recovery` kills
the only replica of each part, and Serve's proxy, and tells how long no answer came. The model is new, of the
size of the quickstart's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import select
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.serving.throughput import ASK, _new
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.store import Store
from headwater.serving import app
from headwater.serving.config import AppConfig, ReplicaRange

ENGINE = "ray::ServeReplica:headwater:Engine"
PARTS = {"engine": ENGINE, "ingress": "ray::ServeReplica:headwater:Ingress", "proxy": "ray::ProxyActor"}
REPLICAS = 2
"""Of the engine, while streams are read."""
BETWEEN_KILLS = 2.0
"""Seconds: Serve takes one to notice."""
KILL_SECONDS = 60.0
"""Longest wait for the end of a killed process."""
SCHEMA = {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 20}
FORMAT = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": SCHEMA, "strict": True}}


@dataclass
class Seen:
    streams: int = 0
    differing: int = 0
    """Of them, those that are no beginning of the undisturbed one."""
    failed: int = 0
    """Of them, those that end with an error event."""
    places: list[str] = field(default_factory=list)
    """Where the differing ones differ."""
    kills: int = 0
    resumed: int = 0
    """Requests that were given to another replica."""
    pauses: list[float] = field(default_factory=list)
    """Seconds: the longest between two events of a stream with a kill between them, one for each in
    `resumed`, in rising order."""
    ends: list[float] = field(default_factory=list)
    """Seconds from each kill to the end of the killed process, its sockets included, in rising order: before
    it nobody can know of its loss."""
    load: float = 0.0
    """Of the machine, as its first load average, at the end."""

    def __str__(self) -> str:
        told = f"{self.kills} kills, {self.streams} streams: {self.differing} differ, {self.failed} failed"
        if not self.pauses:
            return told
        middle, high = statistics.median(self.pauses), self.pauses[int(0.95 * len(self.pauses))]
        slow = sum(pause > 1 for pause in self.pauses)
        if self.ends:
            end, last = statistics.median(self.ends), self.ends[-1]
            told += f"\nthe killed processes ended after {end:.2f} s (median), {last:.2f} s (longest)"
        return (
            f"{told}\npauses of the {self.resumed} resumed: {middle:.2f} s (median), {high:.2f} s (p95), "
            f"{self.pauses[-1]:.2f} s (longest); {slow} above 1 s"
        )


def together(runs: Sequence[Seen]) -> Seen:
    """What several runs have seen."""
    counts = {
        name: sum(getattr(run, name) for run in runs)
        for name in ("streams", "differing", "failed", "kills", "resumed")
    }
    places = [place for run in runs for place in run.places]
    pauses = sorted(pause for run in runs for pause in run.pauses)
    return Seen(**counts, places=places, pauses=pauses, ends=sorted(end for run in runs for end in run.ends))


def bodies(model: str, tokens: int) -> list[dict[str, Any]]:
    """Requests of streams: sampled text, JSON, two choices."""
    asked = {
        "model": model,
        "messages": [ASK],
        "stream": True,
        "retrieval": False,
        "seed": 7,
        "temperature": 1,
    }
    return [
        {**asked, "max_tokens": tokens, "ignore_eos": True, "presence_penalty": 0.5},
        {**asked, "max_tokens": tokens, "response_format": FORMAT},
        {**asked, "max_tokens": tokens // 2, "ignore_eos": True, "n": 2, "stop": ["zzz"]},
    ]


async def told(
    client: httpx.AsyncClient, body: dict[str, Any]
) -> tuple[list[Any], list[tuple[float, float]]]:
    """The events of a stream without ids and times, and of each when the one before it came, and when it
    did."""
    events: list[Any] = []
    last, pauses = time.monotonic(), list[tuple[float, float]]()
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                events.append({name: each for name, each in event.items() if name not in ("id", "created")})
                pauses.append((last, last := time.monotonic()))
            elif line.startswith("data: "):
                events.append(line)
    return events, pauses


async def survive(
    url: str, asked: Sequence[dict[str, Any]], clients: int, kills: int, seconds: float, *, running: int
) -> Seen:
    """Read streams until so many replicas have been killed, or so many seconds are over.

    `running`: number of replicas that must run for one of them to be killed.
    """
    seen, ended = Seen(), asyncio.Event()
    pauses: list[tuple[float, float]] = []
    killed: list[tuple[float, float]] = []

    async def read(numbers: Iterator[int]) -> None:
        while not ended.is_set():
            body = next(numbers) % len(asked)
            events, waited = await told(client, asked[body])
            seen.streams += 1
            pauses.extend(waited)
            failed = "error" in events[-1]
            seen.failed += failed
            said = events[:-1] if failed else events
            expected = wanted[body][: len(said)] if failed else wanted[body]
            if said != expected:
                seen.differing += 1
                pairs = itertools.zip_longest(said, expected)
                place, (found, due) = next(each for each in enumerate(pairs) if each[1][0] != each[1][1])
                seen.places.append(f"request {body}, event {place} of {len(expected)}: {found}, not {due}")

    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        wanted = [(await told(client, body))[0] for body in asked]
        numbers = itertools.count()
        reading = [asyncio.create_task(read(numbers)) for _ in range(clients)]
        try:
            async with asyncio.timeout(seconds):
                while len(killed) < kills:
                    killed += await asyncio.to_thread(_kill_one, running)
                    await asyncio.sleep(BETWEEN_KILLS)
        except TimeoutError:
            pass
        ended.set()
        await asyncio.gather(*reading)
        counted = (await client.get("/metrics")).text.split("\nheadwater_resumed_total ")[1]
    seen.kills, seen.load = len(killed), os.getloadavg()[0]
    seen.resumed = int(float(counted.split()[0]))
    seen.ends = sorted(took for _, took in killed)
    over = sorted(end - begin for begin, end in pauses if any(begin < kill < end for kill, _ in killed))
    seen.pauses = over[max(0, len(over) - seen.resumed) :]
    return seen


async def asked_again(url: str, body: dict[str, Any], limit: float) -> bool:
    """Whether an answer whose ingress is killed in its middle is the same when it is asked for again."""
    async with httpx.AsyncClient(base_url=url, timeout=limit) as client, asyncio.timeout(limit):
        wanted, _ = await told(client, body)
        with contextlib.suppress(httpx.HTTPError):
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = response.aiter_lines()
                await anext(lines)
                os.kill(pids(PARTS["ingress"])[0], signal.SIGKILL)
                async for _ in lines:
                    pass
        while True:
            with contextlib.suppress(httpx.HTTPError, LookupError):
                events, _ = await told(client, body)
                if events[-1] == "data: [DONE]":
                    return events == wanted
            await asyncio.sleep(0.2)


def _kill_one(running: int) -> list[tuple[float, float]]:
    """Kill the oldest engine replica if so many run. Returns when, if it did, and how many seconds later the
    process had ended."""
    from ray import serve

    states = serve.status().applications[app.APPLICATION].deployments["Engine"].replica_states
    found = pids(ENGINE)
    if min(len(found), states.get("RUNNING", 0)) < running:  # type: ignore[call-overload]
        return []
    process, killed = os.pidfd_open(found[0]), time.monotonic()
    try:
        os.kill(found[0], signal.SIGKILL)
        select.select([process], [], [], KILL_SECONDS)
        return [(killed, time.monotonic() - killed)]
    finally:
        os.close(process)


def pids(title: str) -> list[int]:
    """Processes of this one's cluster with a title, the oldest first."""
    found = []
    for each in psutil.Process().children(recursive=True):
        try:
            if " ".join(each.cmdline()).startswith(title) and each.status() != psutil.STATUS_ZOMBIE:
                found.append((each.create_time(), each.pid))
        except psutil.NoSuchProcess:
            continue
    return [pid for _, pid in sorted(found)]


def missed(url: str, part: str, limit: float) -> float:
    """Seconds from the kill of a part to the next answer."""
    body = {"model": "served", "messages": [ASK], "max_tokens": 2}
    os.kill(pids(PARTS[part])[0], signal.SIGKILL)
    began = time.monotonic()
    while time.monotonic() < began + limit:
        try:
            if httpx.post(f"{url}/v1/chat/completions", json=body, timeout=limit).status_code == 200:
                return time.monotonic() - began
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    return limit


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--append", type=Path)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--no-spare", action="store_true")
    how.add_argument("--recovery", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = _new(Path(folder) / "model")
        count = 1 if options.recovery else REPLICAS
        replicas = ReplicaRange(min_replicas=count, max_replicas=count, cpus=0.3, gpus=0)
        config = AppConfig(
            model=str(model), model_name="served", port=0, threads=1, engine=replicas, resume_seconds=300
        )
        url = app.start(config, Session(Store(folder)))
        try:
            print(f"load of the machine: {os.getloadavg()[0]:.1f}")
            if options.recovery:
                for part in PARTS:
                    seconds = missed(url, part, options.seconds)
                    print(f"{part} killed: {seconds:.1f} s without an answer", flush=True)
                return
            asked = bodies("served", options.tokens)
            running = 1 if options.no_spare else REPLICAS
            seen = asyncio.run(
                survive(url, asked, options.clients, options.kills, options.seconds, running=running)
            )
            print("\n".join([*seen.places, str(seen)]), flush=True)
            if options.append:
                with options.append.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(seen)) + "\n")
                runs = [Seen(**json.loads(line)) for line in options.append.read_text("utf-8").splitlines()]
                print(f"all {len(runs)} runs: {together(runs)}", flush=True)
            same = asyncio.run(asked_again(url, asked[0], options.seconds))
            print(f"ingress killed: the answer, asked for again, is {'the same' if same else 'another'}")
        finally:
            app.stop()


if __name__ == "__main__":
    main()
