"""Changing a JSON file that several processes may change: none overwrites what it has not read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.conditional import ConditionalObject, Unsupported
from headwater.cluster.storage.filesystem import filesystem, is_remote
from headwater.cluster.storage.lock import exclusive

log = logging.getLogger("headwater")


def change_json(folder: Artifact, name: str, change: Callable[[Any], Any]) -> Any:
    """Replace a file's content by `change(content)`, which gets None if there is no file. Returns the new
    content.

    Raises HeadwaterError, and writes nothing, if another process changes the file at the same time: on a disk
    it holds the folder's lock, in S3 it has written another version.
    """
    taken = HeadwaterError(
        "another process changes it at this moment", where=folder.path(name), fix="run the command again"
    )
    if not is_remote(folder.location):
        with exclusive(Path(filesystem(folder.location)[1]), taken):
            changed = change(folder.read_json(name) if folder.exists(name) else None)
            folder.write_json(name, changed)
            return changed
    target = ConditionalObject(folder.path(name), "file")
    seen = target.read()
    changed = change(json.loads(seen.body) if seen else None)
    body = json.dumps(changed, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    try:
        written = target.write(body, seen.etag if seen else None)
    except Unsupported:
        log.warning("%s has no conditional writes: a change at the same time is lost", folder.location)
        folder.write_bytes(name, body)
        return changed
    if written is None:
        raise taken
    return changed
