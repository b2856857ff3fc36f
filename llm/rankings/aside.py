"""Rankings that were refused: moved to `rankings_aside/`, where nothing learns from them, and back."""

from __future__ import annotations

from collections.abc import Collection

from headwater.cluster.storage.store import Store
from headwater.llm.examples.rankings import RANKINGS, Kept

ASIDE = "rankings_aside"


def set_aside(store: Store, kept: Collection[Kept]) -> None:
    """Move these rankings out of what is learnt from. An interruption leaves some in both folders."""
    for each in kept:
        _move(store, each.name, RANKINGS, ASIDE)


def restore(store: Store, rater: str | None) -> int:
    """Move a rater's rankings back, or everybody's. Returns their number."""
    folder = store.folder(ASIDE)
    names = [
        name
        for name in folder.files(suffix=".json")
        if rater is None or folder.read_json(name).get("rater") == rater
    ]
    for name in names:
        _move(store, name, ASIDE, RANKINGS)
    return len(names)


def _move(store: Store, name: str, start: str, end: str) -> None:
    store.folder(end).write_bytes(name, store.folder(start).read_bytes(name))
    store.folder(start).delete(name)
