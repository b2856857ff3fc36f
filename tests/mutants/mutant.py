"""A mutant: a piece of source that stands in one place only, and what takes its place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("cluster", "data_pipeline", "llm", "serving", "headwater")


@dataclass(frozen=True)
class Mutant:
    name: str
    old: str
    new: str
    tests: tuple[str, ...]
    """`file.py` or `file.py::test`."""


def mutant(name: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(name, old, new, tests)


def place_of(snippet: str, root: Path) -> Path:
    """The one source file that holds it, once. LookupError otherwise."""
    found = [path for path in _files(root, SOURCES, ".py") for _ in range(path.read_text().count(snippet))]
    if len(found) != 1:
        raise LookupError(f"stands in {len(found)} places, not in one: {snippet!r}")
    return found[0]


def nearest(name: str, root: Path) -> str:
    """`file.py::test` with the file's path below the root. LookupError unless one file has that name, or the
    end of a path that is given instead."""
    file, *rest = name.split("::")
    found = [path for path in _files(root, ("tests",), ".py") if path.match(file)]
    if len(found) != 1:
        raise LookupError(f"{len(found)} files are called {file}")
    return "::".join([str(found[0].relative_to(root)), *rest])


def _files(root: Path, folders: Iterable[str], suffix: str) -> Iterator[Path]:
    """Links to folders are not followed: a file counts once."""
    for top in (root / folder for folder in folders):
        for here, _, names in () if top.is_symlink() else os.walk(top):
            yield from (Path(here) / name for name in names if name.endswith(suffix))
