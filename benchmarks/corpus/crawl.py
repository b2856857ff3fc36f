"""Pages per second that one worker fetches, parses for links and writes as WARC, from a server on loopback.

    python -m benchmarks.corpus.crawl [--pages 5000] [--hosts 100]

The server is another process. The worker's process is pinned to one core if there are several.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import resource
import tempfile
import time
from typing import Any

from aiohttp import web

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.crawl.run import crawl
from headwater.data_pipeline.sources.spec import CrawlSource

LINKS, WORDS = 30, 800


def body(number: int, per_host: int) -> bytes:
    """A page of some 6 KB with links to pages of its host."""
    generator = random.Random(number)
    links = "".join(
        f'<li><a href="/p{generator.randrange(per_host)}">item {n}</a></li>' for n in range(LINKS)
    )
    links += f'<a href="/p{(number + 1) % per_host}">next</a>'
    text = " ".join(generator.choice(("river", "council", "bridge", "market")) for _ in range(WORDS))
    head = f"<html><head><title>Page {number}</title></head>"
    return f"{head}<body><ul>{links}</ul><p>{text}</p></body></html>".encode()


def serve(pipe: Any, per_host: int) -> None:
    bodies = {f"/p{number}": body(number, per_host) for number in range(per_host)}

    async def answer(request: web.BaseRequest) -> web.Response:
        found = bodies.get(request.path)
        if found is None:
            return web.Response(status=404)
        return web.Response(body=found, content_type="text/html", charset="utf-8")

    async def run() -> None:
        runner = web.ServerRunner(web.Server(answer, access_log=None))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        pipe.send(site._server.sockets[0].getsockname()[1])  # type: ignore[union-attr]
        await asyncio.Event().wait()

    asyncio.run(run())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pages", type=int, default=5_000)
    options.add_argument("--hosts", type=int, default=100)
    chosen = options.parse_args()
    per_host = chosen.pages // chosen.hosts
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(theirs, per_host), daemon=True)
    server.start()
    port = ours.recv()
    if hasattr(os, "sched_setaffinity") and len(cores := os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(0, {min(cores)})
    source = CrawlSource(
        kind="crawl",
        seeds=tuple(f"http://host{n}.test:{port}/p0" for n in range(chosen.hosts)),
        contact="crawl@example.org",
        delay_seconds=0,
        sitemaps=False,
        max_per_pattern=1_000_000,
        max_pages_per_host=per_host,
        allow_addresses=("127.0.0.1",),
        resolve={"*": "127.0.0.1"},
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        Session(Store(f"{folder}/store"), max_workers=0) as session,
    ):
        started, used = time.perf_counter(), time.process_time()
        counts = crawl(source, Artifact(f"{folder}/out"), f"{folder}/work", session)
        seconds, cpu = time.perf_counter() - started, time.process_time() - used
    pages = counts["page"]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"{pages:,} pages in {seconds:.1f} s: {pages / seconds:,.0f} pages/s")
    print(f"{pages / cpu:,.0f} pages per CPU second; memory at its peak {memory:,.0f} MB; {counts}")
    server.terminate()


if __name__ == "__main__":
    main()
