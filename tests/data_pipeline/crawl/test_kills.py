"""Killed drivers and workers: the same pages, none twice, and pauses that are kept."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from warcio.archiveiterator import ArchiveIterator

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.crawl.run import crawl, warc_files
from tests.data_pipeline.crawl.web import Web, page, serving, source

DELAY = 0.1


@pytest.fixture
def net() -> Iterator[Web]:
    with serving() as state:
        yield state


def grow(net: Web, hosts: int, pages: int) -> list[str]:
    """Sites whose pages link to the next page of their host and to one of another; returns their URLs."""
    for number in range(hosts):
        other = f"host{(number + 1) % hosts}.test"
        paths = {}
        for n in range(pages):
            nexts = [f"/{m}" if m < pages else "/0" for m in (2 * n + 1, 2 * n + 2)]
            paths[f"/{n}"] = page(*nexts, net.url(other, f"/{n}"))
        net.site(f"host{number}.test", **paths)
    return [net.url(f"host{number}.test", f"/{n}") for number in range(hosts) for n in range(pages)]


def stored(output: Artifact) -> Counter[str]:
    found: Counter[str] = Counter()
    for path in warc_files(output):
        with Path(path).open("rb") as stream:
            for record in ArchiveIterator(stream, check_digests="raise"):
                if record.rec_type == "response":
                    found[record.rec_headers.get_header("WARC-Target-URI")] += 1
    return found


def shortest_pause(net: Web) -> float:
    """Between two requests for pages of a host."""
    pages: dict[str, list[float]] = {}
    for at, host, path, _ in net.requests:
        if path != "/robots.txt":
            pages.setdefault(host, []).append(at)
    return min(b - a for times in pages.values() for a, b in itertools.pairwise(times))


def command(net: Web, folder: Path, workers: int) -> list[str]:
    seeds = [net.url(host, "/0") for host in net.sites]
    settings = {"segment_seconds": 1, "sitemaps": "false", "resolve": '{"*": "127.0.0.1"}'}
    settings |= {"allow_addresses": '["127.0.0.1"]'}
    options = {"--output": folder, "--contact": "crawl@example.org", "--delay": DELAY}
    if workers:
        options["--max-workers"] = workers
    words = [*seeds, *(word for pair in options.items() for word in pair)]
    words += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "headwater", "crawl", *map(str, words)]


def crawl_workers(parent: int) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(parent).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # other workers of a shared cluster end meanwhile
            if "CrawlWorker" in " ".join(child.cmdline()):
                found.append(child)
    return found


@contextlib.contextmanager
def driver(net: Web, folder: Path, workers: int) -> Iterator[subprocess.Popen[bytes]]:
    words = command(net, folder, workers)
    with folder.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()
        process.wait()


def wait_for_requests(net: Web, more: int, process: subprocess.Popen[bytes]) -> None:
    wanted = len(net.requests) + more
    while len(net.requests) < wanted and process.poll() is None:
        time.sleep(0.05)


def test_a_killed_driver_goes_on_where_it_was(net: Web, tmp_path: Path) -> None:
    urls = grow(net, hosts=4, pages=40)
    with driver(net, tmp_path / "out", 0) as process:
        wait_for_requests(net, 40, process)
        assert process.poll() is None, "the crawl ended before it was killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with driver(net, tmp_path / "out", 0) as process:
        process.wait()
    output = (tmp_path / "out.log").read_text()
    assert process.returncode == 0, output
    assert f"{len(urls):,} pages" in output
    assert stored(Artifact(str(tmp_path / "out"))) == Counter(urls)
    assert shortest_pause(net) >= DELAY
    assert len(net.requests) < 2 * len(urls)  # most was not fetched again


def test_a_killed_worker_is_replaced_and_hosts_keep_their_pauses(
    net: Web, session: Session, tmp_path: Path
) -> None:
    urls = grow(net, hosts=6, pages=30)
    seeds = [net.url(f"host{n}.test", "/0") for n in range(6)]
    made = source(*seeds, delay_seconds=DELAY, segment_seconds=1, sitemaps=False)
    output = Artifact(str(tmp_path / "out"))
    killed: list[int] = []

    def kill() -> None:
        while len(net.requests) < 60:
            time.sleep(0.05)
        worker = crawl_workers(os.getpid())[0]
        worker.kill()
        killed.append(worker.pid)

    threading.Thread(target=kill, daemon=True).start()
    counts = crawl(made, output, str(tmp_path / "work"), session)
    assert killed
    assert counts == {"page": len(urls)}
    assert stored(output) == Counter(urls)
    assert shortest_pause(net) >= DELAY


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.ray)])
def test_twenty_kills_leave_the_same_set(net: Web, tmp_path: Path, workers: int) -> None:
    """Of drivers alone, and of drivers and their workers."""
    urls = grow(net, hosts=12, pages=60 if workers else 150)
    generator = random.Random(0)
    kills = 0
    while kills < 20:
        with driver(net, tmp_path / "out", workers) as process:
            for _ in range(4 if workers else 0):
                wait_for_requests(net, generator.randrange(20, 60), process)
                assert process.poll() is None, f"the crawl ended after {kills} kills"
                found = crawl_workers(process.pid)
                if found:
                    generator.choice(found).kill()
                    kills += 1
            wait_for_requests(net, generator.randrange(20, 60), process)
            assert process.poll() is None, f"the crawl ended after {kills} kills"
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    with driver(net, tmp_path / "out", workers) as process:
        process.wait()
    output = (tmp_path / "out.log").read_text()
    assert process.returncode == 0, output
    assert stored(Artifact(str(tmp_path / "out"))) == Counter(urls)
    assert shortest_pause(net) >= DELAY
