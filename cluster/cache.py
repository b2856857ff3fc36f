"""Copies on this machine's disk of files in an object store: fetched once, whole or not at all.

Processes of one machine share them. Whoever comes first fetches while the others wait; a copy appears under
its name with its last byte, and only if size and checksum are right. A copy that is no longer as long as the
original, because a disk was full or somebody tidied up, is fetched again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cluster.errors import HeadwaterError
from cluster.filesystem import filesystem, partial_path

CHUNK = 8 << 20
ATTEMPTS = 2


def cache_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"headwater-cache-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def cached_file(location: str, size: int | None = None, sha256: str | None = None) -> Path:
    """A local copy of one file. Size and checksum are those that a manifest records; without, the store is
    asked for its size and time, so that a file that has changed is fetched again.

    Raises HeadwaterError if what comes from the store is not what it should be.
    """
    identity = f"{location}\0{size}\0{sha256}"
    if size is None:
        fs, path = filesystem(location)
        info = fs.get_file_info(path)
        if not info.is_file:
            raise FileNotFoundError(f"no such file: {location}")
        size = info.size
        identity = f"{location}\0{size}\0{info.mtime_ns}"
    name = hashlib.sha256(identity.encode()).hexdigest()[:24]
    target = cache_folder() / name
    if not _is_whole(target, size):
        with _alone(name[:2]):
            if not _is_whole(target, size):  # another process was first
                _fetch(location, target, size, sha256)
    return target


def _is_whole(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _fetch(location: str, target: Path, size: int, sha256: str | None) -> None:
    fs, path = filesystem(location)
    partial = partial_path(target)
    try:
        for attempt in range(ATTEMPTS):
            digest = hashlib.sha256()
            with fs.open_input_stream(path) as source, partial.open("wb") as copy:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    copy.write(chunk)
            if _is_whole(partial, size) and sha256 in (None, digest.hexdigest()):
                partial.replace(target)
                return
            found = f"{partial.stat().st_size:,} bytes, SHA-256 {digest.hexdigest()[:12]}…"
            if attempt + 1 == ATTEMPTS:
                raise HeadwaterError(
                    f"not the file that was written: {found} instead of {size:,} bytes, "
                    f"SHA-256 {(sha256 or 'unknown')[:12]}…",
                    where=location,
                    fix="delete this artifact and run again",
                )
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """One process at a time; the lock of a process that dies is free."""
    with (cache_folder() / f"{name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
