"""Files that steps read in addition to the documents: lists and evaluation sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.filesystem import filesystem


def read_text(location: str) -> str:
    """Content of a UTF-8 file on a disk or S3. Raises HeadwaterError if it is missing or not UTF-8."""
    fs, path = filesystem(location)
    try:
        with fs.open_input_file(path) as stream:
            return bytes(stream.read()).decode()
    except FileNotFoundError as error:
        raise _missing(location) from error
    except UnicodeDecodeError as error:
        raise HeadwaterError(f"not UTF-8 (byte {error.start})", where=location) from error


def read_list(location: str) -> list[str]:
    """Entries of a list file: one per line; # starts a comment."""
    entries = (line.partition("#")[0].strip() for line in read_text(location).splitlines())
    return [entry for entry in entries if entry]


def fingerprint(locations: Iterable[str]) -> dict[str, str]:
    """Location → hash of the content. It is part of the artifact's key."""
    return {name: _digest(name)[:16] for name in locations}


def _digest(location: str) -> str:
    fs, path = filesystem(location)
    digest = hashlib.sha256()
    try:
        with fs.open_input_stream(path) as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except FileNotFoundError as error:
        raise _missing(location) from error
    return digest.hexdigest()


def _missing(location: str) -> HeadwaterError:
    return HeadwaterError("no such file", where=location, fix="correct the path in `clean`")
