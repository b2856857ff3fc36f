"""The Hugging Face hub as a read-only file system.

Datasets are `hf://datasets/OWNER/NAME[@REVISION]/path`, models `hf://OWNER/NAME[@REVISION]/path`.

`HF_TOKEN` gives access to private repositories and `HF_ENDPOINT` selects another hub, as in huggingface_hub.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

SCHEME = "hf://"


@functools.lru_cache(maxsize=4)
def hub(endpoint: str | None) -> pafs.PyFileSystem:
    from huggingface_hub import HfFileSystem

    return pafs.PyFileSystem(_Handler(HfFileSystem(endpoint=endpoint)))


def commit(location: str) -> tuple[str, str]:
    """The location with the commit that its revision (default: main) names now, and that commit.

    Raises OSError if the repository or the revision does not exist or the hub cannot be reached.
    """
    fs = hub(os.environ.get("HF_ENDPOINT")).handler.fs
    with _asked_for():
        place = fs.resolve_path(location.removeprefix(SCHEME))
        info = fs._api.repo_info(place.repo_id, repo_type=place.repo_type, revision=place.revision)
    kind = "" if place.repo_type == "model" else f"{place.repo_type}s/"
    path = f"/{place.path_in_repo}" if place.path_in_repo else ""
    return f"{SCHEME}{kind}{place.repo_id}@{info.sha}{path}", str(info.sha)


class _Handler(pafs.FSSpecHandler):
    """Raises connection errors as OSError, like the other file systems."""

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        with _asked_for():
            return super().get_file_info(paths)

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        with _asked_for():
            return super().get_file_info_selector(selector)

    def open_input_file(self, path: str) -> pa.NativeFile:
        with _asked_for():
            if not self.fs.isfile(path):
                raise FileNotFoundError(path)
            return pa.PythonFile(_Reader(self.fs.open(path, mode="rb")), mode="r")

    open_input_stream = open_input_file


class _Reader(io.RawIOBase):
    """An open file, whose reads are requests."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return int(self._file.seek(offset, whence))

    def read(self, size: int = -1, /) -> bytes:
        with _asked_for():
            return bytes(self._file.read(size))

    def close(self) -> None:
        self._file.close()
        super().close()


_lock = threading.Lock()
_requests: list[bool] = []
"""HF_HUB_OFFLINE as it was at the start of each request in progress."""


@contextlib.contextmanager
def _asked_for() -> Iterator[None]:
    """Suspend HF_HUB_OFFLINE for a request that an `hf://` path asks for.

    Sessions and images set it, so that transformers downloads nothing unasked; outside this block it applies.
    """
    from huggingface_hub import constants

    with _lock:
        _requests.append(_requests[0] if _requests else constants.HF_HUB_OFFLINE)
        constants.HF_HUB_OFFLINE = False
    try:
        yield
    except Exception as error:
        # httpx or httpx2, whichever this version of huggingface_hub connects with
        if type(error).__module__.startswith("httpx"):
            raise OSError(f"NETWORK_CONNECTION: cannot reach the hub ({error})") from error
        raise
    finally:
        with _lock:
            before = _requests.pop()
            if not _requests:
                constants.HF_HUB_OFFLINE = before
