"""Local disk cache of files in an object store. Copies are complete or absent.

All processes of a machine share it. The first process fetches a file while the others wait. A copy gets its
name only when complete, with the right size and checksum. A copy whose size differs from the original's is
fetched again. If the disk has no room for a new copy, the least recently used copies are evicted.
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
from headwater.cluster.storage.filesystem import delete_local, filesystem, list_files, partial_path

CHUNK = 8 << 20
ATTEMPTS = 2
SPARED_BYTES = 1 << 30
"""Disk space that the cache leaves free."""
IN_USE_SECONDS = 3600.0
"""Copies used within this time are never evicted, because a run may open them at any moment."""


def cache_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"headwater-cache-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def cached_file(location: str, size: int | None = None, sha256: str | None = None) -> Path:
    """Local copy of one file. `size` and `sha256` come from a manifest. Without them, the size and
    modification time are read from the store, so that a changed file is fetched again.

    Raises HeadwaterError if the fetched file has the wrong size or checksum.
    """
    identity = f"{location}\0{size}\0{sha256}"
    if size is None:
        fs, path = filesystem(location)
        info = fs.get_file_info(path)
        if not info.is_file:
            raise FileNotFoundError(f"no such file: {location}")
        size = info.size
        identity = f"{location}\0{size}\0{info.mtime_ns}"
    name = _name(identity)
    target = cache_folder() / name
    if not _is_whole(target, size):
        with alone(name[:2]):
            if not _is_whole(target, size):  # another process may have fetched it meanwhile
                _make_room(size)
                _fetch(location, target, size, sha256)
    os.utime(target)
    return target


def drop_cached_file(location: str, size: int, sha256: str) -> None:
    """Delete the local copy of a file, if there is one."""
    (cache_folder() / _name(f"{location}\0{size}\0{sha256}")).unlink(missing_ok=True)


def _name(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


def cached_folder(location: str) -> Path:
    """Local copy of all files below a location."""
    listed = list_files(location)
    # The name depends on the listing, so that a changed folder is fetched again.
    listing = [(info.path, info.size, info.mtime_ns) for info in listed]
    target = cache_folder() / hashlib.sha256(repr((location, listing)).encode()).hexdigest()[:24]
    if not target.exists():
        _make_room(sum(info.size for info in listed))
        fs, path = filesystem(location)
        partial = partial_path(target)
        partial.mkdir()  # copy_files creates subfolders, but not this one
        pafs.copy_files(path, str(partial), source_filesystem=fs)
        with contextlib.suppress(OSError):  # another process of this machine finished first
            partial.rename(target)
    os.utime(target)
    return target


def _make_room(size: int) -> None:
    """Evict least recently used copies until the disk has room for `size` more bytes.

    Processes that have an evicted copy open keep reading it. Raises HeadwaterError if space is still short.
    """
    folder = cache_folder()
    copies = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process evicted it
            if not path.suffix:
                copies.append((path.stat().st_mtime, path))
    for used, path in sorted(copies):
        if shutil.disk_usage(folder).free >= size + SPARED_BYTES or time.time() - used < IN_USE_SECONDS:
            break
        delete_local(path)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise HeadwaterError(
            f"no room for a copy of {size:,} bytes: the disk has {free:,} bytes free",
            where=str(folder),
            fix="free space, or set TMPDIR to a folder on a larger disk",
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
                    f"unexpected content: {found} instead of {size:,} bytes, "
                    f"SHA-256 {(sha256 or 'unknown')[:12]}…",
                    where=location,
                    fix="delete this artifact and run again",
                )
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold the lock of a name on this machine for the block, when no other process has it. The lock of a
    process that dies is released."""
    with (cache_folder() / f"{name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
