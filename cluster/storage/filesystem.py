"""File systems behind locations: a disk, S3 or the Hugging Face hub.

A location is a plain path, `file:///…`, `s3://bucket/prefix` or `hf://datasets/…`. S3 credentials
come from the standard places (environment, ~/.aws, instance role), and `AWS_ENDPOINT_URL` selects a
server other than Amazon's, as in boto3.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

import pyarrow.fs as pafs

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.hub import SCHEME, hub
from headwater.cluster.storage.object_store import s3

LISTINGS = 5
"""Attempts at listing a folder that other processes change."""

PARTIAL = ".tmp"
"""Suffix of files and folders that are still being written to a disk."""


def filesystem(location: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a location, and the path within it."""
    if location.startswith("s3://"):
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return s3(endpoint, region), location.removeprefix("s3://").rstrip("/")
    if location.startswith(SCHEME):
        return hub(os.environ.get("HF_ENDPOINT")), location.removeprefix(SCHEME).rstrip("/")
    if "://" in location and not location.startswith("file://"):
        scheme = location.split("://")[0]
        raise HeadwaterError(
            f"unknown storage scheme {scheme}://", where=location, fix="use a path, s3:// or hf://"
        )
    path = location.removeprefix("file://")
    try:
        return pafs.LocalFileSystem(), str(Path(path).expanduser().absolute())
    except RuntimeError as error:  # pathlib's
        raise HeadwaterError(
            "no such user's home folder", where=location, fix="write the path in full"
        ) from error


def is_remote(location: str) -> bool:
    return location.startswith("s3://")


def join(location: str, *names: str) -> str:
    return "/".join([location.rstrip("/"), *[name.strip("/") for name in names if name]])


def partial_path(target: Path) -> Path:
    """Temporary path at which `target` is written before it is renamed."""
    return target.with_name(f"{target.name}.{uuid.uuid4().hex}{PARTIAL}")


def delete_local(path: Path) -> None:
    """Delete a file or a folder, if it is still there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def list_files(location: str) -> list[pafs.FileInfo]:
    """All files below a location, sorted by name. Empty if the location does not exist.

    Repeats the listing if a folder appears or disappears on disk meanwhile.
    """
    fs, path = filesystem(location)
    selector = pafs.FileSelector(path, recursive=True, allow_not_found=True)
    for left in reversed(range(LISTINGS)):
        try:
            found = fs.get_file_info(selector)
            break
        except FileNotFoundError:
            if not left:
                raise
    return sorted((info for info in found if info.is_file), key=lambda i: i.path)
