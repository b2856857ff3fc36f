"""Exclusive lock on a local folder. It is released when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from headwater.cluster.errors import HeadwaterError

NAME = ".lock"


@contextlib.contextmanager
def exclusive(folder: Path, taken: HeadwaterError) -> Iterator[None]:
    """Create the folder and hold its lock for the block. Raises `taken` if another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise taken from error
        yield
