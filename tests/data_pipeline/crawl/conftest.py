"""A web on loopback, and a crawl of it in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from warcio.archiveiterator import ArchiveIterator

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.crawl import hosts
from headwater.data_pipeline.crawl.archive import read_log, stored_segments
from headwater.data_pipeline.crawl.run import crawl, warc_files
from tests.data_pipeline.crawl.web import Web, serving, source


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(hosts, "FIRST_PAUSE_SECONDS", 0.05)
    with serving() as state:
        yield state


class Crawl:
    """Crawls into one folder."""

    def __init__(self, folder: Path, session: Session) -> None:
        self.output, self._work, self._session = Artifact(str(folder / "out")), str(folder / "work"), session

    def __call__(self, *seeds: str, refresh: bool = False, **settings: Any) -> dict[str, int]:
        made = source(*seeds, **settings)
        return crawl(made, self.output, self._work, self._session, refresh=refresh)

    def log(self) -> dict[str, dict[str, Any]]:
        """Last row of each URL."""
        names = stored_segments(self.output)
        return {row["url"]: row for name in names for row in read_log(self.output, name)}

    def records(self, kind: str = "response") -> list[Any]:
        """WARC headers and payloads of all records of a kind, by warcio, which checks all digests."""
        found = []
        for path in warc_files(self.output):
            with Path(path).open("rb") as stream:
                for record in ArchiveIterator(stream, check_digests="raise"):
                    if record.rec_type == kind:
                        found.append((record.rec_headers, record.http_headers, record.raw_stream.read()))
        return found

    def stored(self) -> Counter[str]:
        """How often each page is in the WARCs."""
        return Counter(head.get_header("WARC-Target-URI") for head, _, _ in self.records())


@pytest.fixture
def run(tmp_path: Path, here: Session) -> Crawl:
    return Crawl(tmp_path, here)
