"""Parts: the documents of one acquisition unit as Parquet files of bounded size, with resume notes.

A part is written when the next document does not fit. With it goes a note of where that document begins, so
that an interrupted unit resumes there and produces the same files as an uninterrupted one.
"""

from __future__ import annotations

import collections
from typing import Any

import pyarrow as pa

from headwater.cluster.storage.artifact import SCRATCH, Artifact
from headwater.data_pipeline.documents import Document, to_table
from headwater.data_pipeline.sources.items import UNREAD_SCHEMA, Unread
from headwater.data_pipeline.sources.position import Mark, Position
from headwater.data_pipeline.tables import read_table, write_table

DOCUMENTS, UNREAD = "documents", "unread"
PART_BYTES = 32 << 20
"""Maximum content of a part, in addition to the limit on documents. Bounds a worker's memory."""
UNREAD_ROWS = 100_000
"""Maximum rows in the `unread` table of a unit. Further unreadable inputs are only counted."""
PROBLEMS_SHOWN = 5
NOTES, NOTED_UNREAD = f"{SCRATCH}/reading", f"{SCRATCH}/unread"


class PartWriter:
    """Collects documents into parts, and counts read and unreadable inputs.

    Start at `begin`. Call `reading` before each input file, `add` or `reject` for each item, and `close` at
    the end.
    """

    def __init__(self, output: Artifact, unit: str, documents_per_part: int) -> None:
        self._output, self._unit, self._limit = output, unit, documents_per_part
        self._held: list[Document] = []
        self._held_bytes = 0
        self._unread: list[dict[str, str]] = []
        self._unread_noted = 0
        self._unopened: list[dict[str, str]] = []
        self._files: list[dict[str, Any]] = []
        self._reasons: collections.Counter[str] = collections.Counter()
        self._path, self._position = 0, Position()
        self.documents = self._bytes = 0
        self.begin = self._take_up()
        """Where to start reading: index of the unit's file, and the mark in it."""

    def reading(self, path: int, position: Position) -> None:
        """Announce that items of the unit's file with index `path` follow. Its reader updates `position`."""
        self._path, self._position = path, position

    def add(self, document: Document) -> None:
        size = len(document.html) if document.html is not None else len(document.text.encode())
        if len(self._held) == self._limit or (self._held and self._held_bytes + size > PART_BYTES):
            self._write()
            self._note()
        self._held.append(document)
        self._held_bytes += size
        self.documents += 1
        self._bytes += size

    def reject(self, problem: Unread, unopened: bool = False) -> None:
        self._reasons[problem.reason] += problem.records
        row = _as_row(problem)
        if len(self._unread) < UNREAD_ROWS:
            self._unread.append(row)
        if unopened:
            self._unopened.append(row)

    def close(self) -> dict[str, Any]:
        self._write()
        if self._unread:
            self._write_unread(f"{UNREAD}/{self._unit}.parquet", self._unread)
        return {
            "documents": self.documents,
            "bytes": self._bytes,
            "rejected": dict(sorted(self._reasons.items())),
            "files": self._files,
            "unopened": self._unopened[:PROBLEMS_SHOWN],
            "problems": self._unread[:PROBLEMS_SHOWN],
        }

    def _take_up(self) -> tuple[int, Mark | None]:
        note = f"{NOTES}/{self._unit}.json"
        begun = self._output.read_json(note) if self._output.exists(note) else None
        if begun is not None:
            self._files, self.documents, self._bytes = begun["files"], begun["documents"], begun["bytes"]
            self._reasons.update(begun["reasons"])
            self._unopened, self._unread_noted = begun["unopened"], begun["unread"]
            for number in range(len(self._files)):
                name = self._noted_unread(number)
                if self._output.exists(name):
                    self._unread += read_table(self._output, name).to_pylist()
        self._drop_leftovers()
        return (begun["path"], Mark(*begun["mark"])) if begun is not None else (0, None)

    def _write(self) -> None:
        if not self._held:
            return
        name = f"{DOCUMENTS}/{self._unit}-{len(self._files):04d}.parquet"
        write_table(self._output, name, to_table(self._held))
        self._files.append({"name": name, "documents": len(self._held), "bytes": self._held_bytes})
        self._held, self._held_bytes = [], 0

    def _note(self) -> None:
        """Write the resume note: everything before the current item is stored, so resuming starts at it."""
        mark = self._position.mark
        if mark is None:
            return
        if new := self._unread[self._unread_noted :]:
            self._write_unread(self._noted_unread(len(self._files) - 1), new)
        self._unread_noted = len(self._unread)
        note = {
            "path": self._path,
            "mark": mark,
            "files": self._files,
            "documents": self.documents,
            "bytes": self._bytes,
            "reasons": self._reasons,
            "unopened": self._unopened,
            "unread": self._unread_noted,
        }
        self._output.write_json(f"{NOTES}/{self._unit}.json", note)

    def _noted_unread(self, part: int) -> str:
        return f"{NOTED_UNREAD}/{self._unit}-{part:04d}.parquet"

    def _write_unread(self, name: str, rows: list[dict[str, str]]) -> None:
        write_table(self._output, name, pa.Table.from_pylist(rows, UNREAD_SCHEMA))

    def _drop_leftovers(self) -> None:
        """Remove files written after the last note of an interrupted run: a URL may serve new content now."""
        known = {file["name"] for file in self._files}
        for folder in (DOCUMENTS, UNREAD):
            for name in self._output.files(folder, ".parquet"):
                if name.startswith(f"{folder}/{self._unit}") and name not in known:
                    self._output.delete(name)


def _as_row(problem: Unread) -> dict[str, str]:
    return {
        "file": problem.file.encode("utf-8", "replace").decode(),
        "position": problem.position,
        "reason": problem.reason,
        "detail": problem.detail.encode("utf-8", "replace").decode()[:500],
    }
