"""Datasets of the Hugging Face hub as a read-only file system: `hf://datasets/OWNER/NAME[@REVISION]/path`.

`HF_TOKEN` gives access to private datasets and `HF_ENDPOINT` selects another hub, as in huggingface_hub.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.fs as pafs

SCHEME = "hf://"


@functools.lru_cache(maxsize=4)
def hub(endpoint: str | None) -> pafs.PyFileSystem:
    from huggingface_hub import HfFileSystem, constants

    # Sessions and images set HF_HUB_OFFLINE, so that nothing is fetched unasked. Such a path is asked for.
    constants.HF_HUB_OFFLINE = False
    return pafs.PyFileSystem(_Handler(HfFileSystem(endpoint=endpoint)))


class _Handler(pafs.FSSpecHandler):
    """Raises connection errors as OSError, like the other file systems."""

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        with _as_os_errors():
            return super().get_file_info(paths)

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        with _as_os_errors():
            return super().get_file_info_selector(selector)

    def open_input_file(self, path: str) -> pa.NativeFile:
        with _as_os_errors():
            return super().open_input_file(path)

    open_input_stream = open_input_file


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # httpx or httpx2, whichever this version of huggingface_hub connects with
        if type(error).__module__.startswith("httpx"):
            raise OSError(f"NETWORK_CONNECTION: cannot reach the hub ({error})") from error
        raise
