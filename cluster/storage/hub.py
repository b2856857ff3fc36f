"""The Hugging Face hub as a read-only file system.

Datasets are `hf://datasets/OWNER/NAME[@REVISION]/path`, models `hf://OWNER/NAME[@REVISION]/path`.

`HF_TOKEN` gives access to private repositories and `HF_ENDPOINT` selects another hub, as in huggingface_hub.
"""

from __future__ import annotations

import contextlib
import functools
import os
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


def commit(location: str) -> tuple[str, str]:
    """The location with the commit that its revision (default: main) names now, and that commit.

    Raises OSError if the repository or the revision does not exist or the hub cannot be reached.
    """
    fs = hub(os.environ.get("HF_ENDPOINT")).handler.fs
    with _as_os_errors():
        place = fs.resolve_path(location.removeprefix(SCHEME))
        info = fs._api.repo_info(place.repo_id, repo_type=place.repo_type, revision=place.revision)
    kind = "" if place.repo_type == "model" else f"{place.repo_type}s/"
    path = f"/{place.path_in_repo}" if place.path_in_repo else ""
    return f"{SCHEME}{kind}{place.repo_id}@{info.sha}{path}", str(info.sha)


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
