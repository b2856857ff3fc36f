"""Exclusive lock on a local folder. It is released when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from headwater.cluster.errors import HeadwaterError

NAME = ".lock"


@contextlib.contextmanager
def exclusive(folder: Path, taken: HeadwaterError, holder: str = "") -> Iterator[None]:
    """Create the folder and hold its lock for the block. Raises `taken` if another process holds it,
    completed with the `holder` that this process gave."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.seek(0)
            raise held_by(taken, handle.read().strip()) from error
        handle.truncate(0)
        handle.write(holder)
        handle.flush()
        yield


def held_by(taken: HeadwaterError, holder: str) -> HeadwaterError:
    """The error with the name of the process that holds the lock, if it is known."""
    what = f"{taken.what}: {holder}" if holder else taken.what
    return HeadwaterError(what, where=taken.where, fix=taken.fix)
