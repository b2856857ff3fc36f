"""The file of API keys: read again when it changes; keys are added and revoked.

Every replica that sees the file follows it, so that a revoked key is refused within `LOOK_SECONDS`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from headwater.cluster.errors import HeadwaterError
from headwater.serving.api.keys.auth import Key, new_key, read_keys

log = logging.getLogger("headwater")

LOOK_SECONDS = 1.0
"""Time between two looks at the file."""


class KeyFile:
    """The keys of a file, as it is now. An empty path has none: access is open."""

    def __init__(self, path: str) -> None:
        """Raises HeadwaterError as `read_keys`."""
        self.path = path
        self._seen = self._mark()
        self._keys = read_keys(path)
        self._looked = time.monotonic()

    def now(self) -> tuple[Key, ...]:
        """A file that cannot be read any more, or is wrong, keeps the keys that it had."""
        if self.path and time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            mark = self._mark()
            if mark != self._seen:
                self._seen = mark
                try:
                    self._keys = read_keys(self.path)
                except HeadwaterError as error:
                    log.error("the API keys stay as they were: %s", error)
        return self._keys

    def look_again(self) -> None:
        """The next call of `now` reads the file if it has changed, however soon it comes."""
        self._looked = -LOOK_SECONDS

    def _mark(self) -> tuple[int, ...]:
        try:
            found = Path(self.path).expanduser().stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino


def add_key(path: str, name: str, words: Iterable[str]) -> str:
    """Append a new key to a file; returns the key. Only its hash is in the file.

    Raises HeadwaterError for a wrong name, role or limit, and for a file that cannot be written.
    """
    secret, line = new_key(name, words)
    with _written(path) as file:
        cut_short = file.exists() and file.read_text()[-1:] not in ("", "\n")
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as stream:
            stream.write("\n" * cut_short + f"{line}\n")
    return secret


def revoke_key(path: str, which: str) -> Key:
    """Remove the key with this name or id from a file; returns it.

    Raises HeadwaterError where no key or several keys have the name, and for the last key: without one, the
    file would be refused.
    """
    keys = read_keys(path)
    found = [number for number, key in enumerate(keys) if which in (key.id, key.name)]
    if len(found) != 1:
        many = f"{len(found)} keys have" if found else "no key has"
        raise HeadwaterError(
            f"{many} this name or id: {which}", where=path, fix="headwater key list: give an id"
        )
    if len(keys) == 1:
        raise HeadwaterError("this is the last key of the file", where=path, fix="add another one first")
    with _written(path) as file:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        places = [n for n, line in enumerate(lines) if line.strip() and not line.startswith("#")]
        del lines[places[found[0]]]
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write("".join(lines))
        partial.replace(file)
    return keys[found[0]]


@contextlib.contextmanager
def _written(path: str) -> Iterator[Path]:
    try:
        yield Path(path).expanduser().resolve()  # a link stays one
    except OSError as error:
        raise HeadwaterError(
            f"the file of keys cannot be written ({error.strerror})",
            where=path,
            fix="change it where it is made",
        ) from error
