"""The frontier: every URL of a crawl and what is known of it, in one SQLite file.

The logs of the segments are the truth, the frontier is derived from them: `apply` is idempotent per segment,
so a frontier that is lost or behind is brought up to date from the logs. URLs are told apart by a 64-bit
hash (among 10 million, two have the same with a chance of 3 in a million). What a worker holds is known in
memory only; after a kill, it is waiting again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from headwater.data_pipeline.crawl.fetch import Row
from headwater.data_pipeline.crawl.hosts import Task
from headwater.data_pipeline.crawl.urls import Place, pattern, place, split, url_hash
from headwater.data_pipeline.sources.spec import CrawlSource

WAITING, DONE, TOO_DEEP = range(3)
PER_HOST = 50
"""URLs of a host that a worker holds at most."""
PER_WORKER = 20_000
"""Likewise, of all its hosts together."""
TABLES = """
CREATE TABLE IF NOT EXISTS segments (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, n INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS patterns (hash INTEGER PRIMARY KEY, n INTEGER);
CREATE TABLE IF NOT EXISTS hosts (id INTEGER PRIMARY KEY, name TEXT UNIQUE, fetched INTEGER DEFAULT 0,
    delay REAL DEFAULT 0, started INTEGER DEFAULT 0, down INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS urls (id INTEGER PRIMARY KEY, hash INTEGER UNIQUE, host INTEGER, url TEXT,
    page INTEGER, depth INTEGER, hops INTEGER, state INTEGER, known TEXT, links BLOB);
CREATE INDEX IF NOT EXISTS waiting ON urls (host, id) WHERE state = 0;
"""


@dataclass
class HostState:
    """A host as the driver sees it."""

    id: int
    name: str
    delay: float
    waiting: int = 0
    fetched: int = 0
    started: bool = False
    down: bool = False
    given: set[int] = field(default_factory=set)
    """Ids of the URLs that a worker holds."""


class Frontier:
    def __init__(self, path: Path, source: CrawlSource) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._source = source
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + TABLES)
        self._hosts: dict[str, HostState] = {}
        for key, name, fetched, delay, started, down in self._db.execute("SELECT * FROM hosts"):
            self._hosts[name] = HostState(key, name, delay, 0, fetched, bool(started), bool(down))
        by_id = {host.id: host for host in self._hosts.values()}
        for key, count in self._db.execute("SELECT host, count(*) FROM urls WHERE state = 0 GROUP BY host"):
            by_id[key].waiting = count
        self.fetched = sum(host.fetched for host in self._hosts.values())
        """Pages fetched in this edition of the crawl."""
        self._given = 0
        self._careful = {host.name for host in self._hosts.values() if host.started}
        """Hosts of which some other process may just have fetched."""
        if not self._count("edition"):
            self._add_count("edition", 1)
        with self._transaction():
            for seed in source.seeds:
                if found := place(seed):
                    self._add(found, "page", 0, 0)

    @property
    def edition(self) -> int:
        """1, and one more for each time that the crawl was refreshed."""
        return self._count("edition")

    def close(self) -> None:
        self._db.close()

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of the segments that have not been applied."""
        known = {name for (name,) in self._db.execute("SELECT name FROM segments")}
        return [name for name in names if name not in known]

    def apply(self, segment: str, rows: Sequence[Row]) -> None:
        """Record what came of the URLs of a segment, and add their links. A second time it does nothing."""
        if not self.missing([segment]):
            return
        if int(segment[:3]) > self.edition:
            self.refresh()
        with self._transaction():
            self._db.execute("INSERT INTO segments VALUES (?)", (segment,))
            for row in rows:
                self._record(row)

    def refresh(self) -> None:
        """Begin the crawl again, with conditional requests for all pages that are known."""
        with self._transaction():
            self._add_count("edition", 1)
            self._db.execute("DELETE FROM counts WHERE name != 'edition'")
            self._db.execute("UPDATE urls SET state = 0 WHERE state = ?", (DONE,))
            self._db.execute("UPDATE hosts SET fetched = 0, down = 0")
        for host in self._hosts.values():
            host.fetched, host.down = 0, False
            (host.waiting,) = self._db.execute(
                "SELECT count(*) FROM urls WHERE host = ? AND state = 0", (host.id,)
            ).fetchone()
        self.fetched = 0

    def take(self, worker: int, workers: int) -> list[tuple[str, float, list[Task]]]:
        """URLs for a worker, as CrawlWorker.exchange takes them: of its own hosts, within the budgets."""
        work = []
        room = PER_WORKER
        with self._transaction():
            for host in list(self._hosts.values()):
                if room <= 0 or host.down or _worker_of(host, workers) != worker:
                    continue
                left = self._source.max_pages - self.fetched - self._given
                left = min(left, self._source.max_pages_per_host - host.fetched - len(host.given))
                limit = min(PER_HOST, host.waiting, left + len(host.given)) - len(host.given)
                if min(limit, room) <= 0 or len(host.given) > PER_HOST // 2:
                    continue
                tasks = self._next(host, min(limit, room))
                room -= len(tasks)
                wait = host.delay if host.name in self._careful else 0.0
                self._careful.discard(host.name)
                work.append((host.name, wait, tasks))
        return work

    def holds(self, worker: int, workers: int) -> bool:
        """Whether a worker has URLs that it has not answered for."""
        return any(host.given and _worker_of(host, workers) == worker for host in self._hosts.values())

    def lost(self, worker: int, workers: int) -> None:
        """A worker has died: what it held is waiting again, and its hosts have a pause first."""
        for host in self._hosts.values():
            if _worker_of(host, workers) == worker:
                self._given -= len(host.given)
                host.given.clear()
                self._careful.add(host.name)

    def left(self) -> dict[str, int]:
        """URLs that wait, by why they would not be fetched: `budget`, `host_down`. Those held do not
        count."""
        found = {"budget": 0, "host_down": 0}
        for host in self._hosts.values():
            found["host_down" if host.down else "budget"] += host.waiting - len(host.given)
        return found

    def counts(self) -> dict[str, int]:
        """Numbers of URLs by outcome, and of links that were not followed as `refused: REASON`."""
        found = dict(self._db.execute("SELECT name, n FROM counts WHERE name != 'edition' ORDER BY name"))
        (deep,) = self._db.execute("SELECT count(*) FROM urls WHERE state = ?", (TOO_DEEP,)).fetchone()
        return found | ({"refused: depth": deep} if deep else {})

    # -- inside ----------------------------------------------------------------------------
    def _next(self, host: HostState, limit: int) -> list[Task]:
        found = self._db.execute(
            "SELECT id, url, page, depth, hops, known FROM urls WHERE host = ? AND state = 0 "
            "ORDER BY id LIMIT ?",
            (host.id, limit + len(host.given)),
        ).fetchall()
        fresh = [row for row in found if row[0] not in host.given][:limit]
        if fresh and not host.started:
            self._db.execute("UPDATE hosts SET started = 1 WHERE id = ?", (host.id,))
        host.given.update(row[0] for row in fresh)
        self._given += len(fresh)
        return [
            Task(url, "page" if page else "links", depth, hops, json.loads(known) if known else {})
            for _, url, page, depth, hops, known in fresh
        ]

    def _record(self, row: Row) -> None:
        found = split(row["url"])
        host = self._host(found.host)
        page = row["kind"] == "page"
        key, state, depth = self._add(found, row["kind"], row["depth"], 0) or self._look(found)
        if key in host.given:
            host.given.discard(key)
            self._given -= 1
        if state != WAITING:
            return
        host.waiting -= 1
        self._add_count(row["outcome"] if page else f"sitemap or feed: {row['outcome']}", 1)
        for reason, count in row.get("refused", {}).items():
            self._add_count(f"refused: {reason}", count)
        host.delay, host.started = row.get("delay", host.delay), True
        host.down = host.down or row["outcome"] == "host_down"
        if page and row.get("fetched"):
            host.fetched += 1
            self.fetched += 1
        self._db.execute(
            "UPDATE hosts SET fetched = ?, delay = ?, started = 1, down = ? WHERE id = ?",
            (host.fetched, host.delay, host.down, host.id),
        )
        known = json.dumps(row["known"]) if row.get("known") else None
        self._db.execute("UPDATE urls SET state = ?, known = ? WHERE id = ?", (DONE, known, key))
        added = []
        for url, kind, level, hops in row.get("links", ()):
            target = split(url)
            if page and kind == "links":  # a sitemap or feed, as near to the seeds wherever it is named
                self._add(target, kind, 1, hops)
            else:
                step = level - row["depth"]
                self._add(target, kind, depth + step, hops)
                added.append((url_hash(target.url), step))
        if self._source.max_depth is not None and added:
            blob = b"".join(h.to_bytes(8, "big", signed=True) + bytes([step]) for h, step in added)
            self._db.execute("UPDATE urls SET links = ? WHERE id = ?", (blob, key))

    def _look(self, found: Place) -> tuple[int, int, int]:
        row: tuple[int, int, int] = self._db.execute(
            "SELECT id, state, depth FROM urls WHERE hash = ?", (url_hash(found.url),)
        ).fetchone()
        return row

    def _add(self, found: Place, kind: str, depth: int, hops: int) -> tuple[int, int, int] | None:
        """Add a URL that is new; None if it is known. A shorter way to a known one is remembered."""
        key = url_hash(found.url)
        known = self._db.execute("SELECT id, state, depth FROM urls WHERE hash = ?", (key,)).fetchone()
        if known:
            if depth < known[2] and self._source.max_depth is not None:
                self._shorten(key, depth)
            return None
        if depth and self._over(found):
            self._add_count("refused: pattern", 1)
            return None
        most = self._source.max_depth
        state = TOO_DEEP if most is not None and depth > most else WAITING
        host = self._host(found.host)
        cursor = self._db.execute(
            "INSERT INTO urls (hash, host, url, page, depth, hops, state) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (key, host.id, found.url, kind == "page", depth, hops, state),
        )
        host.waiting += state == WAITING
        return int(cursor.lastrowid or 0), state, depth

    def _shorten(self, key: int, depth: int) -> None:
        """A URL is nearer to a seed than was known, and so may be what it links to: the set of pages within a
        depth does not depend on the order in which they were fetched."""
        ways = [(key, depth)]
        while ways:
            key, depth = ways.pop()
            row = self._db.execute(
                "SELECT id, state, depth, links, host FROM urls WHERE hash = ?", (key,)
            ).fetchone()
            if row is None or row[2] <= depth:
                continue
            id_, state, _, links, host_id = row
            if state == TOO_DEEP and depth <= (self._source.max_depth or 0):
                state = WAITING
                next(host for host in self._hosts.values() if host.id == host_id).waiting += 1
            self._db.execute("UPDATE urls SET depth = ?, state = ? WHERE id = ?", (depth, state, id_))
            ways += [(target, depth + step) for target, step in _steps(links)]

    def _over(self, found: Place) -> bool:
        """Whether a host has too many URLs of one pattern. Counts this one."""
        key = url_hash(pattern(found))
        (count,) = self._db.execute(
            "INSERT INTO patterns VALUES (?, 1) ON CONFLICT DO UPDATE SET n = n + 1 RETURNING n", (key,)
        ).fetchone()
        return int(count) > self._source.max_per_pattern

    def _host(self, name: str) -> HostState:
        if name not in self._hosts:
            delay = self._source.delay_seconds
            cursor = self._db.execute("INSERT INTO hosts (name, delay) VALUES (?, ?)", (name, delay))
            self._hosts[name] = HostState(int(cursor.lastrowid or 0), name, delay)
        return self._hosts[name]

    def _count(self, name: str) -> int:
        row = self._db.execute("SELECT n FROM counts WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def _add_count(self, name: str, n: int) -> None:
        self._db.execute(
            "INSERT INTO counts VALUES (?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n", (name, n)
        )

    def _transaction(self) -> Transaction:
        return Transaction(self._db)


def _worker_of(host: HostState, workers: int) -> int:
    return int(xxhash.xxh32_intdigest(host.name)) % workers


class Transaction:
    """All or nothing of what is executed within."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def _steps(links: bytes | None) -> Iterator[tuple[int, int]]:
    """Hashes and distances (0 for a redirect) of a page's links."""
    for start in range(0, len(links or b""), 9):
        piece = (links or b"")[start : start + 9]
        yield int.from_bytes(piece[:8], "big", signed=True), piece[8]
