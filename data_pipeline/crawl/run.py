"""Drives a crawl: hands out URLs to the workers, and keeps the frontier.

Each host belongs to one worker, by the hash of its name. After a kill of a worker or of the driver, segments
that were stored count, and everything else is fetched again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.filesystem import filesystem, is_remote
from headwater.data_pipeline.crawl.archive import (
    PAGES,
    delete_partial,
    read_log,
    stored_segments,
)
from headwater.data_pipeline.crawl.fetch import Row
from headwater.data_pipeline.crawl.frontier import Frontier
from headwater.data_pipeline.crawl.worker import OWNER, OWNER_SECONDS, CrawlWorker
from headwater.data_pipeline.sources.guard import authorities
from headwater.data_pipeline.sources.proxy import proxy_of
from headwater.data_pipeline.sources.spec import CrawlSource

SETTINGS, FINISHED = "crawl.json", "finished.json"
FIXED = ("seeds", "scope", "user_agent")
"""Settings that a crawl keeps. The others may be changed before it is continued."""
DEATHS = 5
"""Deaths of workers, one after another without a stored segment, that end the crawl."""
log = logging.getLogger("headwater")

Work = Sequence[tuple[str, float, list[Any]]]
Stored = tuple[str, list[Row]]


def crawl(
    source: CrawlSource, output: Artifact, work: str, session: Session, *, refresh: bool = False
) -> dict[str, int]:
    """Crawl into `output`, or continue. `work`: folder for the frontier; if it is not on a disk, a temporary
    one serves. `refresh`: visit all pages of a finished crawl again; one that is not finished goes on.

    Returns numbers of URLs by outcome. Raises HeadwaterError if `output` holds a crawl of other seeds or
    scope, or if the proxy's credentials are missing.
    """
    proxy_of(source)
    authorities()
    _claim(source, output)
    token = _take_over(output)
    delete_partial(output)
    with contextlib.ExitStack() as stack:
        if is_remote(work):
            work = stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-frontier-"))
        frontier = Frontier(Path(filesystem(work)[1]) / "frontier.sqlite3", source)
        stack.callback(frontier.close)
        for name in frontier.missing(stored_segments(output)):
            frontier.apply(name, read_log(output, name))
        if refresh and _finished(output) == frontier.edition:
            frontier.refresh()
        pool: Pool = _Here() if session.here else _Actors(session)
        pool.make = lambda: (source, output, token, frontier.edition)
        with session.progress("crawl", source.max_pages, "pages") as shown:
            shown.resume_at(frontier.fetched)
            for segment, rows in _segments(frontier, output, pool):
                frontier.apply(segment, rows)
                shown.advance(sum(bool(row.get("fetched")) and row["kind"] == "page" for row in rows))
        output.write_json(FINISHED, {"edition": frontier.edition})
        _release(output, token)
        left = {f"left: {reason}": count for reason, count in frontier.left().items() if count}
        return frontier.counts() | left


def summary(counts: Mapping[str, int]) -> str:
    """One line of numbers by outcome."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "nothing to do"


def warc_files(output: Artifact) -> list[str]:
    """Paths of the WARC files with pages."""
    return [output.path(name) for name in output.files(PAGES, ".warc.gz")]


def _claim(source: CrawlSource, output: Artifact) -> None:
    mine = source.model_dump(mode="json")
    if output.exists(SETTINGS):
        there = output.read_json(SETTINGS)
        changed = [name for name in FIXED if there.get(name) != mine[name]]
        if changed:
            raise HeadwaterError(
                f"this folder holds a crawl with other {', '.join(changed)}",
                where=output.location,
                fix="pass another --output, or the same settings",
            )
    output.write_json(SETTINGS, mine)


def _finished(output: Artifact) -> int:
    """Edition that was crawled to its end; 0 if none was."""
    return int(output.read_json(FINISHED)["edition"]) if output.exists(FINISHED) else 0


def _take_over(output: Artifact) -> str:
    """A token that workers of an earlier driver do not have: they stop when they see it.

    Waits for them, unless that driver ended them itself.
    """
    token, alive = secrets.token_hex(8), output.exists(OWNER) and output.read_bytes(OWNER) != b""
    output.write_bytes(OWNER, token.encode())
    if alive:
        time.sleep(2 * OWNER_SECONDS)
    return token


def _release(output: Artifact, token: str) -> None:
    """Note that this driver has ended its workers."""
    if output.read_bytes(OWNER).decode() == token:
        output.write_bytes(OWNER, b"")


class Pool(Protocol):
    """Workers by number, each with at most one call at a time."""

    size: int
    make: Any

    def call(self, worker: int, work: Work) -> None: ...

    def answers(self) -> Iterator[tuple[int, Stored | None]]:
        """Answers of calls, at least one; None from a worker that died."""

    def close(self) -> None: ...


def _segments(frontier: Frontier, output: Artifact, pool: Pool) -> Iterator[Stored]:
    """Segments as the workers store them, until no URL may be fetched any more."""
    busy: set[int] = set()
    deaths = 0
    try:
        while True:
            for worker in range(pool.size):
                if worker in busy:
                    continue
                work = frontier.take(worker, pool.size)
                if work or frontier.holds(worker, pool.size):
                    pool.call(worker, work)
                    busy.add(worker)
            if not busy:
                return
            for worker, stored in pool.answers():
                busy.discard(worker)
                if stored is None:
                    deaths += 1
                    log.warning("a crawl worker died; its hosts are visited again")
                    if deaths >= DEATHS:
                        raise HeadwaterError(
                            f"{deaths} workers died one after another", fix="see the logs of the workers"
                        )
                    for name in frontier.missing(stored_segments(output)):
                        yield name, read_log(output, name)
                    frontier.lost(worker, pool.size)
                elif stored[0]:
                    deaths = 0
                    yield stored
    finally:
        pool.close()


class _Here:
    """One worker in this process."""

    size = 1

    def __init__(self) -> None:
        self.make: Any = None
        self._loop = asyncio.new_event_loop()
        self._worker: CrawlWorker | None = None
        self._work: Work = ()

    def call(self, worker: int, work: Work) -> None:
        self._work = work

    def answers(self) -> Iterator[tuple[int, Stored | None]]:
        self._worker = self._worker or CrawlWorker(*self.make())
        yield 0, self._loop.run_until_complete(self._worker.exchange(self._work))

    def close(self) -> None:
        if self._worker is not None:
            self._loop.run_until_complete(self._worker.close())
        self._loop.close()


class _Actors:
    """Ray actors, one CPU each."""

    def __init__(self, session: Session) -> None:
        self.make: Any = None
        self.size = max(1, min(session.cpus(), session.max_workers or session.cpus()))
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}

    def call(self, worker: int, work: Work) -> None:
        import ray

        if worker not in self._actors:
            self._actors[worker] = ray.remote(num_cpus=1)(CrawlWorker).remote(*self.make())
        self._calls[self._actors[worker].exchange.remote(work)] = worker

    def answers(self) -> Iterator[tuple[int, Stored | None]]:
        import ray

        ready, _ = ray.wait(list(self._calls), num_returns=1)
        for call in ready:
            worker = self._calls.pop(call)
            try:
                yield worker, ray.get(call)
            except ray.exceptions.RayActorError:
                del self._actors[worker]
                yield worker, None

    def close(self) -> None:
        import ray

        for actor in self._actors.values():
            ray.kill(actor)
