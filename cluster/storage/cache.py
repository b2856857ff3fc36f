"""Copies on this machine's disk of files in an object store: fetched once, whole or not at all.

Processes of one machine share them. Whoever comes first fetches while the others wait; a copy appears under
its name with its last byte, and only if size and checksum are right. A copy that is no longer as long as the
original, because a disk was full or somebody tidied up, is fetched again. Where the disk has no room for
another one, the copies that have not been asked for the longest go first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.filesystem import filesystem, list_files, partial_path

CHUNK = 8 << 20
ATTEMPTS = 2
SPARED_BYTES = 1 << 30
"""Of the disk, left to others."""
IN_USE_SECONDS = 3600.0
"""A copy that was asked for so lately stays, whatever room is needed: a run may open it at any moment."""


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
                _make_room(size)
                _fetch(location, target, size, sha256)
    os.utime(target)
    return target


def cached_folder(location: str) -> Path:
    """A local copy of all files below a location."""
    listed = list_files(location)
    # The listing is part of the name, so that what has changed is fetched again.
    listing = [(info.path, info.size, info.mtime_ns) for info in listed]
    target = cache_folder() / hashlib.sha256(repr((location, listing)).encode()).hexdigest()[:24]
    if not target.exists():
        _make_room(sum(info.size for info in listed))
        fs, path = filesystem(location)
        partial = partial_path(target)
        partial.mkdir()  # copy_files makes the folders below it, not the first one
        pafs.copy_files(path, str(partial), source_filesystem=fs)
        with contextlib.suppress(OSError):  # another process of this machine was first
            partial.rename(target)
    os.utime(target)
    return target


def _make_room(size: int) -> None:
    """Delete copies until the disk has room for so many bytes more, those that were used last at the end.

    Whoever has a copy open keeps it. Raises HeadwaterError where there is not room enough.
    """
    folder = cache_folder()
    copies = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process is making room too
            if not path.suffix:
                copies.append((path.stat().st_mtime, path))
    for used, path in sorted(copies):
        if shutil.disk_usage(folder).free >= size + SPARED_BYTES or time.time() - used < IN_USE_SECONDS:
            break
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise HeadwaterError(
            f"a copy of {size:,} bytes has no room on a disk with {free:,} bytes left",
            where=str(folder),
            fix="make room, or set TMPDIR to a folder on a larger disk",
        )


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
