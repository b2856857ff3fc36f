"""What was added to an index, replaced and deleted since it was made.

Beside the artifact lies a folder with one file per changed URL: a document, or that it is deleted. The
artifact itself stays as it is. Every search lists the folder first, so each replica knows a change from the
moment when it was written. Suited to some thousands of changes; more belong into the corpus.
"""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.filesystem import filesystem, is_remote
from headwater.data_pipeline.documents import document_id
from headwater.data_pipeline.text.normalise import normalise
from headwater.llm.grounding.passages import Passage, passage_spans
from headwater.serving.retrieval.embed import Embedder
from headwater.serving.retrieval.passages import Segment, collected

SUFFIX = ".changes"
SETTLED_S = 2.0
"""A folder's time stamp is as coarse as the file system's clock: a folder that changed less than this ago is
listed again."""


@dataclass(frozen=True)
class Change:
    """A document under its URL, or without text: that there is none."""

    url: str
    title: str = ""
    text: str = ""
    language: str = ""
    date: str = ""


@dataclass(frozen=True)
class _State:
    names: frozenset[str]
    newest: dict[str, tuple[str, Change]]
    """Name of the newest file and its content, by URL."""
    added: dict[str, Segment]
    """By URL."""
    hidden: np.ndarray | None
    """bool [documents of the base]."""


class Changes:
    """The changes of the index at `location`, whose passages are `base`. Safe to use from several threads,
    processes and machines; of two changes of one URL the later one counts."""

    def __init__(
        self, location: str, base: Segment, embed: Embedder, passage_words: int, overlap_words: int
    ) -> None:
        self._folder = Artifact(location.rstrip("/") + SUFFIX)
        self._base, self._embed = base, embed
        self._spans = (passage_words, overlap_words)
        self._lock = threading.Lock()
        self._listed: tuple[int, frozenset[str]] | None = None
        self._numbers: dict[str, list[int]] = {}
        for number, document in enumerate(base.documents):
            self._numbers.setdefault(document["url"], []).append(number)
        self._state = _State(frozenset(), {}, {}, None)
        self.current()

    def current(self) -> list[tuple[Segment, np.ndarray | None]]:
        """The segments to search, each with its hidden documents (bool [documents], or None)."""
        state = self._refreshed()
        return [(self._base, state.hidden), *((segment, None) for segment in state.added.values())]

    def put(self, change: Change) -> int:
        """Add or replace a document; returns its number of passages. Searchable when this returns.

        Without any passage it changes nothing."""
        clean = Change(
            change.url,
            " ".join(normalise(change.title).split()),
            normalise(change.text),
            change.language,
            change.date,
        )
        segment = self._segment(clean)
        if segment is None:
            return 0
        self._write(clean)
        self._refreshed()
        return len(segment.words.documents)

    def delete(self, url: str) -> bool:
        """Delete a document; returns whether there was one. In no search when this returns."""
        there = self.has(url)
        if there:
            self._write(Change(url))
            self._refreshed()
        return there

    def has(self, url: str) -> bool:
        state = self._refreshed()
        if url in state.newest:
            return state.newest[url][1].text != ""
        return url in self._numbers

    def documents(self) -> Iterator[dict[str, str]]:
        """`id`, `url`, `title`, `language` and `date` of every document: the index's, then those added."""
        state = self._refreshed()
        for number, document in enumerate(self._base.documents):
            if state.hidden is None or not state.hidden[number]:
                yield document
        for segment in state.added.values():
            yield from segment.documents

    # -- files ---------------------------------------------------------------------------------
    def _write(self, change: Change) -> None:
        key = hashlib.sha256(change.url.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        older = sorted(name for name in self._names() if name.startswith(key))
        stamp = (
            max(time.time_ns(), *(int(name.split("-")[1]) + 1 for name in older)) if older else time.time_ns()
        )
        self._folder.write_json(f"{key}-{stamp:020d}-{uuid.uuid4().hex[:8]}.json", asdict(change))
        for name in older:
            self._folder.delete(name)

    def _names(self) -> frozenset[str]:
        location = self._folder.location
        if is_remote(location):
            return frozenset(self._folder.files(suffix=".json"))
        fs, path = filesystem(location)
        info = fs.get_file_info(path)
        seen = info.mtime_ns or 0
        if self._listed is None or self._listed[0] != seen or time.time_ns() - seen < SETTLED_S * 1e9:
            self._listed = (seen, frozenset(self._folder.files(suffix=".json")))
        return self._listed[1]

    def _refreshed(self) -> _State:
        names = self._names()
        if names == self._state.names:
            return self._state
        with self._lock:
            if names != self._state.names:
                self._state = self._after(self._state, names)
            return self._state

    def _after(self, state: _State, names: frozenset[str]) -> _State:
        newest, added = dict(state.newest), dict(state.added)
        for name in sorted(names - state.names):
            try:
                change = Change(**self._folder.read_json(name))
            except FileNotFoundError:  # replaced meanwhile: its successor is in the next listing
                continue
            if change.url in newest and newest[change.url][0] > name:
                continue
            newest[change.url] = (name, change)
            added.pop(change.url, None)
            if segment := self._segment(change):
                added[change.url] = segment
        hidden = np.zeros(len(self._base.documents), bool)
        for url in newest:
            hidden[self._numbers.get(url, [])] = True
        return _State(names, newest, added, hidden if hidden.any() else None)

    def _segment(self, change: Change) -> Segment | None:
        identifier = document_id(change.url, change.text)
        rows = [
            Passage(identifier, change.url, change.title, change.text[start:end], start, end)
            for start, end in passage_spans(change.text, *self._spans)
        ]
        if not rows:
            return None
        vectors = self._embed([f"{row.title}\n{row.text}" for row in rows])
        return collected(rows, vectors, change.language, change.date)
