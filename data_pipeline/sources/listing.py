"""Expands the paths of a recipe to files, each with an identity that changes with its content."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.filesystem import filesystem, list_files
from headwater.data_pipeline.sources.content import COMPRESSED, DOCUMENT_SUFFIXES
from headwater.data_pipeline.sources.opening import REMOTE, is_url, storage_reason
from headwater.data_pipeline.sources.spec import FileSource, Source, WheelSource

COMPRESSION = ("", *COMPRESSED)
SUFFIXES: dict[str, tuple[str, ...]] = {
    "warc": tuple(stem + end for stem in (".warc", ".wet", ".warc.wet") for end in COMPRESSION),
    "jsonl": tuple(stem + end for stem in (".jsonl", ".ndjson", ".json") for end in COMPRESSION),
    "parquet": (".parquet",),
    "folder": tuple(stem + end for stem in DOCUMENT_SUFFIXES for end in COMPRESSION),
    "mbox": tuple(f".mbox{end}" for end in COMPRESSION),
    "mediawiki": tuple(f".xml{end}" for end in COMPRESSION),
    "csv": tuple(f".csv{end}" for end in COMPRESSION),
    "archive": (".zip", ".tgz", *(f".tar{end}" for end in COMPRESSION)),
}
"""Suffixes of files read from a folder. A file that is named directly may have any suffix."""


@dataclass(frozen=True)
class InputFile:
    path: str
    identity: tuple[Any, ...] = ()
    """Size and modification time; empty if unknown without reading."""


def input_files(source: FileSource, kind: str) -> list[InputFile]:
    """All files of a source, in the order of `paths` and by name within each path.

    Raises HeadwaterError for a missing local path. The reader reports missing remote files.
    """
    return files_at(source.paths, SUFFIXES[kind], "correct `paths` of this source")


def files_at(paths: Iterable[str], suffixes: tuple[str, ...], fix: str) -> list[InputFile]:
    """Likewise, for any paths; files of a folder need one of the suffixes. `fix` goes into the error."""
    found: dict[str, InputFile] = {}
    for path in paths:
        if is_url(path):
            listed = [InputFile(path)]
        elif path.startswith(REMOTE):
            listed = _remote(path, suffixes)
        else:
            listed = _on_disk(path, suffixes, fix)
        found.update({file.path: file for file in listed if file.path not in found})
    return list(found.values())


def fingerprint(sources: Sequence[Source]) -> dict[str, Any]:
    """Short hash of everything known about the input files without reading them."""
    digest, count = hashlib.sha256(), 0
    for source in sources:
        if isinstance(source, FileSource):
            for file in input_files(source, source.kind):
                digest.update(repr((file.path, file.identity)).encode())
                count += 1
        else:  # nothing is known of the web before it is crawled
            known = source.sha256 if isinstance(source, WheelSource) else source.model_dump_json()
            digest.update(known.encode())
            count += 1
    return {"files": count, "sha256": digest.hexdigest()}


def _on_disk(path: str, suffixes: tuple[str, ...], fix: str) -> list[InputFile]:
    plain = Path(path.removeprefix("file://")).expanduser()
    if plain.is_dir():
        names = [name for name in sorted(plain.rglob("*")) if name.is_file() and _wanted(name.name, suffixes)]
        problem = f"the folder contains no {'/'.join(suffixes[:3])} file"
    elif plain.exists():
        names, problem = [plain], ""
    else:
        matches = glob.glob(str(plain), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        names = [Path(name) for name in sorted(matches) if Path(name).is_file()]
        problem = "no such file or folder"
    if not names:
        raise HeadwaterError(problem, where=path, fix=fix)
    return [InputFile(str(name), (name.stat().st_size, name.stat().st_mtime_ns)) for name in names]


def _remote(path: str, suffixes: tuple[str, ...]) -> list[InputFile]:
    """Files of a bucket or dataset below a name. A name that cannot be listed is kept, so that its reader
    reports the error."""
    scheme = path.partition("://")[0]
    try:
        if any(mark in path for mark in "*?["):
            folder = path[: min(path.find(mark) for mark in "*?[" if mark in path)].rpartition("/")[0]
            pattern = path.partition("://")[2]
            infos = [info for info in list_files(folder) if fnmatch.fnmatch(info.path, pattern)]
        else:
            fs, inner = filesystem(path)
            info = fs.get_file_info(inner)
            if info.type == pafs.FileType.File:
                infos = [info]
            else:
                infos = [item for item in list_files(path) if _wanted(item.base_name, suffixes)]
    except OSError as error:
        return [InputFile(path, (storage_reason(error),))]
    if not infos:
        return [InputFile(path, ("nothing",))]
    return [InputFile(f"{scheme}://{info.path}", (info.size, info.mtime_ns)) for info in infos]


def _wanted(name: str, suffixes: tuple[str, ...]) -> bool:
    return not name.startswith(".") and name.lower().endswith(suffixes)
